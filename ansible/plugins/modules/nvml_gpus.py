#!/usr/bin/python
# GNU General Public License v3.0+ (see https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPUs of a host as NVIDIA's library tells them, and their persistence mode."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nvml_gpus
short_description: Read the GPUs of a host through NVML, and set their persistence mode
version_added: 0.1.0
author: gpufleet developers (@gpufleet)
description:
  - Asks the NVIDIA Management Library (C(libnvidia-ml.so.1), part of the driver) which GPUs the host has.
  - Fails where there is no library, no driver behind it, or a GPU that the driver has lost, and says what to do.
options:
  persistence_mode:
    description:
      - Whether the driver stays loaded while nobody uses a GPU. Without it the mode is left as it is.
      - What is set here lasts until the next boot; the daemon C(nvidia-persistenced) sets it at boot.
    type: bool
  allow_missing:
    description: Whether a host without a driver is a host without GPUs, and no failure.
    type: bool
    default: false
attributes:
  check_mode:
    description: Nothing is set.
    support: full
  diff_mode:
    description: Shows the persistence modes that change.
    support: full
notes:
  - Needs root to set the persistence mode, and nothing but Python's standard library.
"""

EXAMPLES = r"""
- name: Read the GPUs
  gpufleet.clearml.nvml_gpus:
  register: found

- name: Keep the driver loaded
  gpufleet.clearml.nvml_gpus:
    persistence_mode: true
"""

RETURN = r"""
driver_version:
  description: The version of the driver; empty without one.
  returned: always
  type: str
  sample: "535.161.08"
gpus:
  description: The GPUs in the order of NVML.
  returned: always
  type: list
  elements: dict
  sample: [{index: 0, uuid: GPU-…, name: NVIDIA H100, memory_mib: 81559, persistence_mode: true}]
"""

import ctypes
import traceback

from ansible.module_utils.basic import AnsibleModule

LIBRARY = "libnvidia-ml.so.1"
OK = 0
NOT_SUPPORTED = 3
DRIVER_NOT_LOADED = 9
VERSION_MISMATCH = 18
ADVICE = {
    DRIVER_NOT_LOADED: "The driver is installed and not loaded: does `modprobe nvidia` work, or is a reboot due?",
    VERSION_MISMATCH: "The library is newer than the loaded driver, as after an update: reboot the host.",
}


class NvmlError(Exception):
    """A call that did not end well, with the code of nvml.h."""

    def __init__(self, call, code, says):
        super().__init__("%s: %s (%s)" % (call, says, code))
        self.code = code


class Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class Nvml:
    """The calls that are needed here (nvml.h); GPUs are given as handles."""

    def __init__(self):
        self._library = ctypes.CDLL(LIBRARY)
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        self.call("nvmlInit_v2")

    def call(self, name, *arguments):
        """Call it. Raises NvmlError."""
        code = getattr(self._library, name)(*arguments)
        if code != OK:
            raise NvmlError(name, code, self._library.nvmlErrorString(code).decode())

    def driver_version(self):
        text = ctypes.create_string_buffer(80)
        self.call("nvmlSystemGetDriverVersion", text, ctypes.c_uint(len(text)))
        return text.value.decode()

    def handles(self):
        count = ctypes.c_uint()
        self.call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            self.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
            yield index, handle

    def text_of(self, name, handle):
        text = ctypes.create_string_buffer(96)
        self.call(name, handle, text, ctypes.c_uint(len(text)))
        return text.value.decode()

    def memory_mib(self, handle):
        memory = Memory()
        self.call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
        return memory.total // 2**20

    def persistence_mode(self, handle):
        """None where there is no such thing (vGPU, Windows)."""
        mode = ctypes.c_uint()
        try:
            self.call("nvmlDeviceGetPersistenceMode", handle, ctypes.byref(mode))
        except NvmlError as error:
            if error.code == NOT_SUPPORTED:
                return None
            raise
        return bool(mode.value)

    def set_persistence_mode(self, handle, mode):
        self.call("nvmlDeviceSetPersistenceMode", handle, ctypes.c_uint(int(mode)))

    def gpu(self, index, handle):
        """What is told of one GPU. A lost one raises here."""
        return {
            "index": index,
            "uuid": self.text_of("nvmlDeviceGetUUID", handle),
            "name": self.text_of("nvmlDeviceGetName", handle),
            "memory_mib": self.memory_mib(handle),
            "persistence_mode": self.persistence_mode(handle),
        }


def main():
    """Read, set what is to be set, and tell."""
    module = AnsibleModule(
        argument_spec={
            "persistence_mode": {"type": "bool"},
            "allow_missing": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        nvml = Nvml()
    except (OSError, NvmlError) as error:
        if module.params["allow_missing"] and not isinstance(error, NvmlError):
            module.exit_json(changed=False, driver_version="", gpus=[])
        code = getattr(error, "code", None)
        module.fail_json(
            msg="NVIDIA's driver does not answer: %s. %s"
            % (error, ADVICE.get(code, "Is the driver installed (package with libnvidia-ml.so.1)?"))
        )
    try:
        handles = list(nvml.handles())
        gpus = [nvml.gpu(index, handle) for index, handle in handles]
        wanted = module.params["persistence_mode"]
        to_set = [gpu["index"] for gpu in gpus if wanted is not None and gpu["persistence_mode"] == (not wanted)]
        if not module.check_mode:
            for index, handle in handles:
                if index in to_set:
                    nvml.set_persistence_mode(handle, wanted)
        module.exit_json(
            changed=bool(to_set),
            driver_version=nvml.driver_version(),
            gpus=[dict(gpu, persistence_mode=wanted) if gpu["index"] in to_set else gpu for gpu in gpus],
            diff={
                side: {"GPU %d" % index: {"persistence_mode": mode} for index in to_set}
                for side, mode in (("before", not wanted), ("after", wanted))
            },
        )
    except NvmlError as error:
        module.fail_json(
            msg="A GPU does not answer: %s. `dmesg | grep -i xid` has more; take it out of service, or reboot." % error,
            exception=traceback.format_exc(),
        )


if __name__ == "__main__":
    main()

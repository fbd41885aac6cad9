# Copyright: (c) 2026, gpufleet developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: clearml_workers
short_description: Hosts of the workers that a ClearML server knows
version_added: 0.1.0
author: gpufleet developers (@gpufleet)
description:
  - Takes the hosts from the ids of the workers. V(node1:gpu0) and V(node1:gpu1) are two workers of the host C(node1).
  - An agent that was given a name of its own (C(agent.worker_name) or C(agent.worker_id)) makes a host of that name.
  - Hosts without a worker that reports are not there, so it suits looking after a fleet better than setting it up.
  - The file must be named C(clearml_workers.yml) or C(clearml_workers.yaml), perhaps with something before that.
  - Each host has the variable C(clearml_workers), the list of its workers as M(gpufleet.clearml.clearml_worker_info)
    gives them, without C(force).
  - Groups of a host are C(queue_NAME) for each queue that its workers listen to, C(gpus_COUNT), and C(state_STATE)
    for each state that one of its workers is in (C(idle), C(running), C(closed), C(forced_on), C(forced_off),
    C(waiting), C(paused), C(cordoned), C(draining)). A worker that runs a task while it is closed or drains counts
    for both.
    What is no letter, digit or underscore becomes an underscore.
  - The server does not know models of GPUs. If the agents have tags that name them, O(keyed_groups) makes groups of
    these.
extends_documentation_fragment:
  - gpufleet.clearml.clearml_server
  - gpufleet.clearml.clearml_server.plugin
  - constructed
  - inventory_cache
options:
  plugin:
    description: Says that the file is for this plugin.
    type: str
    required: true
    choices: [gpufleet.clearml.clearml_workers]
  patterns:
    description: Shell patterns; a worker counts when its id matches one of them.
    type: list
    elements: str
    default: ["*"]
  group_prefix:
    description: What the names of the groups queue_, gpus_ and state_ begin with.
    type: str
    default: ""
seealso:
  - module: gpufleet.clearml.clearml_worker_info
"""

EXAMPLES = r"""
# clearml_workers.yml, with CLEARML_API_HOST, CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY in the environment
plugin: gpufleet.clearml.clearml_workers

---
# gpu.clearml_workers.yml
plugin: gpufleet.clearml.clearml_workers
api_server: http://clearml:8008
access_key: "{{ lookup('env', 'MY_ACCESS_KEY') }}"
secret_key: "{{ lookup('file', '~/.clearml_secret') }}"
patterns: ["*:gpu*", "*:dgpu*"]
group_prefix: clearml_
compose:
  ansible_host: clearml_workers[0].ip
groups:
  busy: clearml_workers | selectattr('runs') | length > 0
keyed_groups:
  - key: clearml_workers | map(attribute='version') | select | unique | list
    prefix: agent
"""

import fnmatch
import re

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_api import (
    ClearmlError,
    server_for,
)
from ansible_collections.gpufleet.clearml.plugins.module_utils.clearml_workers import (
    all_workers,
)

try:
    from ansible.utils.unsafe_proxy import wrap_var
except ImportError:  # going to be removed: since ansible-core 2.19, only what is marked as trusted is a template

    def wrap_var(value):
        return value


CONNECTION = ("api_server", "access_key", "secret_key", "validate_certs", "ca_path", "request_timeout")
FILE_NAMES = ("clearml_workers.yml", "clearml_workers.yaml")


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "gpufleet.clearml.clearml_workers"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(FILE_NAMES)

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        workers = self._workers(self.get_cache_key(path), may_be_old=cache)
        patterns = self.get_option("patterns")
        chosen = [worker for worker in workers if any(fnmatch.fnmatchcase(worker["id"], one) for one in patterns)]
        for host, its_workers in by_host(chosen).items():
            self._add(host, its_workers)

    def _workers(self, key, *, may_be_old):
        """The workers, out of the cache if one is used and this run may read it."""
        caches = self.get_option("cache")
        if caches and may_be_old and key in self._cache:
            return self._cache[key]
        workers = self._ask()
        if caches:
            self._cache[key] = workers
        return workers

    def _ask(self):
        try:
            return all_workers(server_for({name: self._templated(name) for name in CONNECTION}))
        except ClearmlError as error:
            raise AnsibleParserError(str(error)) from error

    def _templated(self, name):
        value = self.get_option(name)
        return self.templar.template(value) if isinstance(value, str) else value

    def _add(self, host, workers):
        self.inventory.add_host(host)
        self.inventory.set_variable(host, "clearml_workers", wrap_var(workers))
        for name in groups_of(workers):
            group = self.inventory.add_group(safe_name(self.get_option("group_prefix") + name))
            self.inventory.add_child(group, host)
        variables, strict = self.inventory.get_host(host).get_vars(), self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, host, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict=strict)


def by_host(workers):
    """The workers of each host, in order of their ids."""
    hosts = {}
    for worker in workers:
        hosts.setdefault(worker["host"], []).append(worker)
    return hosts


def groups_of(workers):
    """The names of the groups to which a host of these workers belongs, in order."""
    names = {f"queue_{queue}" for worker in workers for queue in worker["queues"]}
    names |= {f"state_{state}" for worker in workers for state in states_of(worker)}
    count = gpu_count(workers)
    if count:
        names.add(f"gpus_{count}")
    return sorted(names)


def states_of(worker):
    """What the worker is in, in single words."""
    return worker["state"].split(", ")


def gpu_count(workers):
    """How many GPUs the workers of a host have between them; 0 if that is not known.

    GPUs that ids name are counted once, however many workers share them, and MIG instances by their GPU. An id without
    names stands for as many as its readings have.
    """
    names, read = set(), 0
    for worker in workers:
        gpus = worker["gpus"] or {"names": [], "count": 0}
        named = [name for name in gpus["names"] if name != "all"]
        names |= {re.split(r"[.:]", name)[0] for name in named}
        read = max(read, 0 if named else gpus["count"] or 0)
    return max(len(names), read)


def safe_name(name):
    return re.sub(r"[^A-Za-z0-9_]", "_", name)

"""NVIDIA's management library from a text file, for the real binding: `fake_nvml.c` compiled on first use."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
LIBRARY = "libnvidia-ml.so.1"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread")


def library_folder() -> Path:
    """The folder to put on LD_LIBRARY_PATH. Compiles at most once, however many sessions ask at the same time."""
    source = HERE / "fake_nvml.c"
    folder = HERE.parents[2] / ".cache" / "fake-nvml"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / LIBRARY
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
            fresh = folder / f"{LIBRARY}.new"
            command = ["gcc", *FLAGS, f"-Wl,-soname,{LIBRARY}", "-o", str(fresh), str(source)]
            subprocess.run(command, check=True)
            fresh.rename(library)
    return folder


def variables(config: Path) -> dict[str, str]:
    """The environment in which a process sees the GPUs that `config` describes."""
    return {"LD_LIBRARY_PATH": str(library_folder()), "FAKE_NVML_CONFIG": str(config), "PATH": os.environ["PATH"]}

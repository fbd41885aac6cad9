"""A clock that a test can set under a running process: `shifted_clock.c` compiled on first use and preloaded."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")


class Clock:
    """The time of day of every process that is started with `environ`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.ahead(0)

    @property
    def environ(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(_library()), "SHIFTED_CLOCK": str(self._file)}

    def ahead(self, seconds: int) -> None:
        """Set it so many seconds ahead of the true time (negative: behind)."""
        with open(self._file, "r+b" if self._file.exists() else "w+b") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))


def _library() -> Path:
    source, folder = HERE / "shifted_clock.c", HERE.parents[2] / ".cache" / "shifted-clock"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "shifted_clock.so"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
            fresh = library.with_suffix(".new")
            subprocess.run(["gcc", *FLAGS, "-o", str(fresh), str(source)], check=True)
            fresh.rename(library)
    return library

"""The service manager's side of sd_notify(3)."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

from support.agent import wait_for


class Listener:
    """What a service manager hears, in order, with the times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[tuple[float, dict[str, str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while data := self._socket.recv(65536):
            if data == b"end":
                return
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())
            self.heard.append((time.monotonic(), fields))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"end", str(self.path))
        self._thread.join()
        self._socket.close()

    def times_of(self, name: str) -> list[float]:
        return [moment for moment, fields in list(self.heard) if name in fields]

    @property
    def statuses(self) -> list[str]:
        return [fields["STATUS"] for _, fields in list(self.heard) if "STATUS" in fields]

    def wait_for_status(self, beginning: str, *, seconds: float = 20.0) -> str:
        def said() -> str:
            return self.statuses[-1] if self.statuses and self.statuses[-1].startswith(beginning) else ""

        found: str = wait_for(said, seconds=seconds, what=f"{beginning!r} in {self.statuses}")
        return found

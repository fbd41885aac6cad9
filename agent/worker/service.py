"""What the daemon tells whoever supervises it: the protocol of sd_notify(3), one datagram per message.

systemd says where it listens (`NOTIFY_SOCKET`), and how often it wants to hear that the event loop turns
(`WATCHDOG_USEC`). supervisord listens to nothing, but wants the same behaviour at start, so it counts as a supervisor,
too. Started by hand, nothing is sent and nobody is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping

from agent.logs import current_redactor
from agent.worker.hold import HOLD_FILE

log = logging.getLogger(__name__)

#: A service manager that does not take a datagram within this time hears it with the next one.
SEND_SECONDS = 1.0
PINGS_PER_WATCHDOG_TIME = 3
#: supervisord takes a process that ends within its `startsecs` (1) for one that failed, and starts it again.
STARTED_SECONDS = 1.5
#: What is meant for the supervised process alone. A task that sent READY=1 or kept a socket of the service would
#: speak in our name. INVOCATION_ID stays: it only names the run of the service.
OURS = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", HOLD_FILE}
)
OURS_PREFIX = "LISTEN_"
#: What says that the configuration is being read, and is over with the next READY.
RELOADING = frozenset({"RELOADING", "MONOTONIC_USEC"})


class Supervisor:
    """The process that started this one and starts it again: systemd, supervisord, or (by hand) nobody."""

    def __init__(self, *, address: str = "", watchdog_seconds: float = 0.0, is_supervised: bool = False) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds
        self._unsent: dict[str, str] = {}
        self._is_heard = True
        self._text = ""
        self._is_draining = False
        self._is_ready = False
        self._began = time.monotonic()
        self.is_supervised = is_supervised or bool(address)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Supervisor:
        address = environ.get("NOTIFY_SOCKET", "")
        is_for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        return cls(
            address=address if address.startswith(("/", "@")) else "",
            watchdog_seconds=int(microseconds) / 1e6 if is_for_us and microseconds.isdecimal() else 0.0,
            is_supervised=bool(environ.get("SUPERVISOR_ENABLED")),
        )

    def ready(self) -> None:
        """The worker is registered: what waits for this unit may go on."""
        self._is_ready = True
        self._unsent = {name: value for name, value in self._unsent.items() if name not in RELOADING}
        self._send(READY="1")

    @property
    def is_ready(self) -> bool:
        """Whether it was told so."""
        return self._is_ready

    @property
    def text(self) -> str:
        """What the agent does, as it was last told."""
        return self._text

    def status(self, text: str) -> None:
        """One line on what the agent does, for `systemctl status`, which everybody on the host may read."""
        self._text = text
        said = current_redactor()(f"draining: {text}" if self._is_draining else text)
        self._send(STATUS=" ".join(said.split()))

    def draining(self) -> None:
        """Say so before everything else from now on."""
        self._is_draining = True
        self.status(self._text or "starting")

    def ending(self, *, seconds: float) -> None:
        """The task is being ended, which may take this long: no reason to be killed meanwhile."""
        self._is_draining = False
        self.status("ending the task, then leaving")
        self._send(EXTEND_TIMEOUT_USEC=str(int(seconds * 1e6)))

    def drained(self) -> float:
        """The agent leaves because it drains, perhaps without having been ready, which is no failed start: systemd has
        to be told so. Returns for how many seconds supervisord has to see the process yet.
        """
        if not self._is_ready:
            self.ready()
        is_watched = self.is_supervised and not self._address
        return max(0.0, self._began + STARTED_SECONDS - time.monotonic()) if is_watched else 0.0

    def reloading(self) -> None:
        """The configuration is read again; the next `ready` says that this is over, whatever came of it. Not told
        before the first `ready`: the agent is still starting then.
        """
        if self._is_ready:
            microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._send(RELOADING="1", MONOTONIC_USEC=str(microseconds))

    def stopping(self) -> None:
        """Only the last steps are left. From here on the service manager's stop time-out runs."""
        self._send(STOPPING="1")

    async def feed_watchdog(self) -> None:
        """Ping from the event loop, until cancelled: a loop that hangs does not ping."""
        while self._address and self._watchdog_seconds:
            self._send(WATCHDOG="1")
            await asyncio.sleep(self._watchdog_seconds / PINGS_PER_WATCHDOG_TIME)

    def _send(self, **variables: str) -> None:
        if not self._address:
            return
        self._unsent |= variables
        message = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_SECONDS)
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            if self._is_heard:
                log.warning("the service manager cannot be told: %s", error, extra={"action": "notify"})
            self._is_heard = False
        else:
            self._unsent.clear()
            self._is_heard = True


def for_children(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without what the service manager meant for this process alone."""
    return {name: value for name, value in environ.items() if name not in OURS and not name.startswith(OURS_PREFIX)}

"""The signals that are wishes to a daemon (`signals.py` says of what), kept waiting until it listens.

A signal that reaches Python amid its imports may be swallowed there, or be a death. So `clearml-agent daemon` blocks
them before it becomes the daemon, and the daemon, which may be started otherwise, does so before everything else.
"""

from __future__ import annotations

import signal

WISHES = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)


def keep_waiting() -> None:
    """Have wishes wait for `listen_for_stop`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WISHES)

"""What the operating system refuses while a task is set up: whose trouble that is, in words for people."""

from __future__ import annotations

import errno
import os

from agent.errors import SetupFailed
from agent.process.trouble import trouble_in

#: What is said by a disk that is full, read-only or in trouble, which may pass.
DISK_TAKES_NOTHING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EPERM, errno.EACCES})
#: Nobody's path is at fault where these come up.
_OF_THE_HOST = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENODEV})


def of_the_system(error: OSError, phase: str, workspace: str) -> SetupFailed:
    """An error of the operating system as the error of a task's set-up.

    What is wrong with a path inside the workspace comes from the task's own files (a folder where a file should be),
    and so does a program that cannot be started.
    """
    path = os.fspath(error.filename) if isinstance(error.filename, str) else ""
    about = f": {path}" if path else ""
    reason = error.strerror or type(error).__name__
    is_the_tasks = phase == "run" or path.startswith(workspace + os.sep)
    trouble = trouble_in(str(error))
    if error.errno not in _OF_THE_HOST and is_the_tasks and (trouble is None or error.errno == errno.EACCES):
        what = "the program of the task cannot be started" if phase == "run" else "a file of the task cannot be used"
        return SetupFailed(f"{what} ({reason}){about}", hint="Check it in the task's repository or script.")
    if trouble is None:
        return SetupFailed(
            f"the operating system of the host does not go along ({reason}){about}",
            hint="Nothing in the task is at fault: tell whoever operates this host.",
            infrastructure=True,
        )
    return SetupFailed(f"{trouble.what}{about}", hint=trouble.advice, infrastructure=True)

"""That an operator holds this agent: it takes no task, whoever starts it, until `supervisor-gen resume`.

The unit names a file (docs/supervisor-gen.md, "Draining"); while it is there, an agent that is started drains from the
beginning. So neither a crash amid a drain nor a reboot of a drained host makes it take tasks again, and what either of
them interrupted is still accounted for. A running agent does not look: it is told by USR1.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

log = logging.getLogger(__name__)

HOLD_FILE = "CLEARML_AGENT_HOLD_FILE"


def is_held(environ: Mapping[str, str]) -> bool:
    """Whether the file of the hold is there. A place that cannot be looked at holds nobody."""
    name = environ.get(HOLD_FILE, "")
    if not name:
        return False
    path = os.path.normpath(name)  # supervisord's is relative to a folder that the agent need not be able to enter
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        log.warning("whether the agent is held cannot be told: %s", error, extra={"action": "hold"})
        return False
    return True

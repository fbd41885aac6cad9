"""What kept a command from its work, read from what it printed: git, uv and pip, and what the libraries below them say.

The rule behind the table: whatever keeps us from an answer (no network, no name, a server that is away, overloaded or
cut off, a full disk) is the infrastructure's trouble, which may be over in a while or is not there on another host. An
answer that refuses (wrong password, no such repository, no such package) is not: the same question gets the same answer
tomorrow, and only a person can change that.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

BROKEN_COPY = "the copy of the repository on this host is broken"
CANNOT_WRITE = "a file of this host cannot be written"
DISK_FULL = "the disk is full"
#: A disk with less is full: git does not say why it cannot write.
_LEAST_FREE_BYTES = 16 * 1024 * 1024
_LATER = "Nothing in the task is at fault: run it again later, or tell whoever operates this host."


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """`what` completes "cannot fetch it: ...", `advice` says what to do, `place` is the address it is about, if any."""

    what: str
    advice: str
    infrastructure: bool
    place: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.place})" if self.place else self.what


#: The first row that matches decides. Rows of one kind are alternatives, in the words of git, ssh, uv and pip.
_DISK = (
    (
        r"no space left on device|disk quota exceeded|\[errno (28|122)\]|os error (28|122)\b",
        DISK_FULL,
        f"Free space on the host that ran this task (its state and cache folders). {_LATER}",
    ),
    (
        r"read-only file system|input/output error|\[errno (30|5)\]|os error (30|5)\b",
        "the disk cannot be written or read",
        f"Look at the disk of the host that ran this task. {_LATER}",
    ),
)
_ROWS = (
    (
        r"^.*(fatal|error): (not a git repository|bad config line \d+ in file \./|wrong index"
        r"|index file .* is too small|packfile .* (corrupt|cannot be)|.*object .* is corrupt|bad object|inflate"
        r"|object file .* is empty"
        r"|.*did not send all necessary objects|unable to read|failed to read object|missing (blob|tree|commit))",
        BROKEN_COPY,
        f"Remove it from the cache of repositories (agent.vcs_cache.path). {_LATER}",
    ),
    (
        r"could not resolve (host|proxy)|temporary failure in name resolution|name or service not known|dns error"
        r"|failed to lookup address|nameresolutionerror|no address associated with hostname",
        "the name of its server cannot be resolved",
        f"Check the address for a typing error, and the network and the name service of this host. {_LATER}",
    ),
    (
        r"error setting certificate|certificate (file|bundle)|could not find a suitable tls ca|ssl certificate problem"
        r"|certificate verif\w+ failed|invalid peer certificate|invalid `?ssl_cert_file|error reading ca cert"
        r"|server certificate verification failed|host key verification failed|problem with the ssl ca",
        "the identity of its server cannot be verified",
        f"Check the CA certificates and known hosts of this host, and the certificate of the server. {_LATER}",
    ),
    (
        r"handshake\w* (failed|error)|sslerror|ssl_error|tls (handshake|connection|error|packet)|gnutls_\w+",
        "no encrypted connection to its server comes about",
        f"Check that the address begins with the right protocol (http or https). {_LATER}",
    ),
    (
        r"proxyerror|proxy connect|tunnel failed|error: 407|407 proxy",
        "the proxy does not let us through",
        f"Check the proxy settings of this host. {_LATER}",
    ),
    (
        r"returned error: (5\d\d|429)|\bhttp (error )?(5\d\d|429)\b|server error \(5\d\d|5\d\d server error"
        r"|429 (client error|too many)|too many (5\d\d|429) error|50[0234] (internal|bad|service|gateway)",
        "its server is in trouble",
        _LATER,
    ),
    (
        r"operation too slow|timed out|timeout was reached|timeouterror|operation timed out",
        "its server does not answer in time",
        f"Check the network of this host. {_LATER}",
    ),
    (
        r"connection refused|couldn't connect|failed to connect|unable to connect|network is unreachable"
        r"|no route to host|tcp connect error|client error \(connect\)|newconnectionerror"
        r"|failed to establish a new connection",
        "its server cannot be reached",
        f"Check the network of this host. {_LATER}",
    ),
    (
        r"empty reply from server|early eof|hung up|connection (was )?reset|connection closed|connection aborted"
        r"|transfer closed|unexpected disconnect|incompleteread|protocolerror|remotedisconnected|connection broken"
        r"|error sending request|body error|rpc failed|recv failure",
        "the connection to its server broke off",
        _LATER,
    ),
    (
        r"\[errno 13\]|os error 13\b|permission denied$|cannot mkdir|unable to (create|write|append)"
        r"|insufficient permission",
        CANNOT_WRITE,
        f"Check who owns the state and cache folders of the agent, and the disk below them. {_LATER}",
    ),
)
_REFUSALS = (
    (
        r"authentication failed|could not read (username|password)|terminal prompts disabled|permission denied \("
        r"|returned error: 40[13]|401 unauthorized|403 forbidden|40[13] client error|access denied",
        "its server refuses our credentials, or has none from us",
        "Check the address, and ask whoever operates this host for credentials that are allowed to read it"
        " (agent.git_user and agent.git_pass, ssh keys, the address of a package index).",
    ),
    (
        r"not found$|does not exist|does not appear to be a git repository|returned error: (404|410)"
        r"|is not valid: is this a git|(404|410) client error|http error (404|410)|client error \((404|410)",
        "there is nothing at this address",
        "Check the address that the task has recorded, and that it is not gone.",
    ),
    (
        r"no solution found|no matching distribution|could not find a version|not found in the package registry",
        "no version of a package fits what is required",
        "Check the task's requirements: a name or a version that no index has, or two that contradict each other.",
    ),
    (
        r"build backend returned an error|failed to build|metadata-generation-failed|subprocess-exited-with-error"
        r"|failed building wheel|failed-wheel-build",
        "a package could not be built",
        "Read what its build has printed; a system library or compiler may be missing, or use a version with wheels.",
    ),
    (r"failed to parse|invalid requirement", "a requirement cannot be read", "Correct the task's requirements."),
)
#: What a package's own build has printed: there only a full disk is ours.
_OF_A_BUILD = r"(?ms)^\s*\[std(?:err|out)\]\n.*?(?=^ {0,4}\S|\Z)|\[\d+ lines? of output\].*?\[end of output\]"
_ADDRESS = r"(?:https?|ssh)://(?:[^/\s@'\"`]*@)?([^/\s'\"`)>,;]+)"


def trouble_in(output: str) -> Trouble | None:
    """What the output of a failed command tells about the cause; None if it is nothing that we know."""
    for pattern, what, advice in _DISK:
        if re.search(pattern, output, re.IGNORECASE):
            return Trouble(what=what, advice=advice, infrastructure=True)
    own = re.sub(_OF_A_BUILD, "", output)
    for rows, infrastructure in ((_ROWS, True), (_REFUSALS, False)):
        for pattern, what, advice in rows:
            if match := re.search(pattern, own, re.IGNORECASE | re.MULTILINE):
                place = _address_near(own, match.start()) if infrastructure else ""
                return Trouble(what=what, advice=advice, infrastructure=infrastructure, place=place)
    return None


def is_full(folder: str) -> bool:
    """Whether hardly anything can be written into a folder any more."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < _LEAST_FREE_BYTES or (room.f_files > 0 and room.f_favail == 0)


def _address_near(output: str, position: int) -> str:
    """The host in the line of this position, or the last one before it."""
    end = output.find("\n", position)
    found = re.findall(_ADDRESS, output[: end if end >= 0 else len(output)])
    return found[-1].rstrip(":.") if found else ""

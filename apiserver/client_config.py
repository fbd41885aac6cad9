"""The ready `clearml.conf`: addresses and credentials for agents and SDK on this host.

Written at the first start, mode 0600, and kept valid: when the server listens elsewhere the addresses are rewritten,
when the file is gone or its credentials are no longer good new ones are minted (the database has only a hash, so the
old ones cannot be written again).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .store import bootstrap, users
from .store.database import Transaction

_VALUE = r'"?{name}"?\s*[:=]\s*"([^"]*)"'

_TEMPLATE = """\
# Written by clearml-apiserver; read by clearml-agent and by the clearml SDK:
#   export CLEARML_CONFIG_FILE={path}
api {{
    web_server: "{api}"
    api_server: "{api}"
    files_server: "{files}"
    credentials {{
        access_key: "{access_key}"
        secret_key: "{secret_key}"
    }}
}}
sdk {{
    development {{
        suppress_update_message: true
    }}
}}
agent {{
    disable_agent_update_check: true
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where clients on this host find the server."""

    api: str
    files: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key and its secret."""

    access_key: str
    secret_key: str


def credentials_in(text: str) -> Credentials | None:
    """The credentials of a file that we wrote, perhaps edited since."""
    found = [re.search(_VALUE.format(name=name), text) for name in ("access_key", "secret_key")]
    if found[0] is None or found[1] is None:
        return None
    return Credentials(found[0][1], found[1][1])


def render(path: Path, addresses: Addresses, credentials: Credentials) -> str:
    """The text of the file."""
    return _TEMPLATE.format(
        path=path,
        api=addresses.api,
        files=addresses.files,
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
    )


def is_valid(text: str, addresses: Addresses) -> bool:
    """Whether the file already leads to this server."""
    found = {name: re.search(_VALUE.format(name=name), text) for name in ("api_server", "files_server")}
    api, files = found["api_server"], found["files_server"]
    return bool(api and files and api[1] == addresses.api and files[1] == addresses.files)


def good_credentials(tx: Transaction, known: Credentials | None) -> Credentials:
    """Those we have, when the server still accepts them, or new ones."""
    if known is not None:
        record = users.find_credential(tx, known.access_key)
        if record is not None and users.secret_matches(known.secret_key, record["secret_hash"]):
            return known
    return Credentials(*users.add_credential(tx, bootstrap.owner(tx), label="clearml.conf"))


def read(path: Path) -> str:
    """The present text; empty when there is no file."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def write(path: Path, text: str) -> None:
    """Replace the file, never leaving half of it or a moment in which others may read it."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)

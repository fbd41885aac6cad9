"""A git credential helper that knows the credentials of one run; git starts it when a server asks for a password.

It is run as a file (`python -I -S credential_helper.py FILE get`), so it imports nothing of the project. FILE is
0600 and holds a list of `{"host", "prefix", "user", "password"}` objects in order of preference; an empty host
matches every host. Passwords travel through the pipe between git and this process and nowhere else: they are not in
an argument list, a URL or an environment.
"""

import json
import sys


def choose(entries: list[dict[str, str]], query: dict[str, str]) -> dict[str, str] | None:
    """The first entry that fits what git asks for, or None."""
    host = query.get("host", "").lower()
    bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    url = f"{query.get('protocol', '')}://{host}/{query.get('path', '')}"
    for entry in entries:
        if entry.get("prefix"):
            if url.startswith(entry["prefix"]):
                return entry
        elif entry.get("host", "").lower() in ("", host, bare):
            return entry
    return None


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[1] != "get":
        return 0
    query = dict(line.rstrip("\n").split("=", 1) for line in sys.stdin if "=" in line)
    if query.get("protocol") not in ("http", "https"):
        return 0
    with open(arguments[0], encoding="utf-8") as file:
        entry = choose(json.load(file), query)
    if entry is not None:
        sys.stdout.write(f"username={entry['user']}\npassword={entry['password']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

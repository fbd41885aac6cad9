"""What is on the disk of a host: `python3 - record FILE` and `python3 - compare FILE`, this text as standard input.

`compare` prints JSON: what has appeared, gone, and changed since. Times do not count; contents do below /etc.
"""

import hashlib
import json
import os
import stat
import sys


def listing():
    found, disk = {}, os.lstat("/").st_dev
    for folder, folders, files in os.walk("/"):
        folders[:] = [
            name
            for name in folders
            if os.lstat(os.path.join(folder, name)).st_dev == disk or os.path.islink(os.path.join(folder, name))
        ]
        for name in folders + files:
            path = os.path.join(folder, name)
            found[path] = about(path)
    return found


def about(path):
    seen = os.lstat(path)
    text = [oct(seen.st_mode), seen.st_uid, seen.st_gid]
    if stat.S_ISLNK(seen.st_mode):
        text.append(os.readlink(path))
    elif stat.S_ISREG(seen.st_mode):
        text.append(seen.st_size)
        if path.startswith("/etc/"):
            with open(path, "rb") as file:
                text.append(hashlib.sha256(file.read()).hexdigest())
    return text


def record(place):
    with open(place, "w") as file:
        json.dump(listing(), file)


def compare(place):
    with open(place) as file:
        before = json.load(file)
    now = listing()
    print(
        json.dumps(
            {
                "appeared": sorted(now.keys() - before.keys()),
                "gone": sorted(before.keys() - now.keys()),
                "changed": sorted(path for path in now.keys() & before.keys() if now[path] != before[path]),
            }
        )
    )


{"record": record, "compare": compare}[sys.argv[1]](sys.argv[2])

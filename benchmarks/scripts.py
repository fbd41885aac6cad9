"""What the tasks of the benchmarks run. A script says itself when something happened, so no clock is read twice."""

from __future__ import annotations

#: One line at once, one at the end: everything that is not the user's is before the first and after the last.
TRIVIAL = """\
import time

print("first", repr(time.time()), flush=True)
print("last", repr(time.time()), flush=True)
"""

#: The same with packages: they have to be there, but their own import time is not the agent's.
PACKAGES = """\
import time

print("first", repr(time.time()), flush=True)
import numpy
import requests

print("versions", numpy.__version__, requests.__version__)
print("last", repr(time.time()), flush=True)
"""

PACKAGES_REQUIREMENTS = "numpy\nrequests\n"

LINES = 100_000

#: As fast as the pipe takes them. Each line has a number, its time, and an end by which a cut is seen.
FLOOD = f"""\
import time

for number in range({LINES}):
    print(f"line {{number:06d}} {{time.time():.3f}} abcdefghijklmnopqrstuvwxyz0123456789 end")
print("last", repr(time.time()), flush=True)
"""

OUTAGE_LINES = 1_200
OUTAGE_SECONDS = 60.0

#: Ten lines a second for two minutes, of which the server is away for one.
SLOW = f"""\
import time

print("first", repr(time.time()), flush=True)
began = time.monotonic()
for number in range({OUTAGE_LINES}):
    print(f"line {{number:06d}} {{time.time():.3f}} abcdefghijklmnopqrstuvwxyz0123456789 end", flush=True)
    time.sleep(max(0.0, began + (number + 1) * 0.1 - time.monotonic()))
print("last", repr(time.time()), flush=True)
"""

LEAK_REQUIREMENTS = "tabulate\n"

#: Installs in three ways what a later task must not see: recorded packages, and files beside them and beside itself.
LEAKING = """\
import pathlib
import sysconfig
import time

import tabulate

print("first", repr(time.time()), flush=True)
for place in (sysconfig.get_path("purelib"), "."):
    pathlib.Path(place, f"leaked_{'here' if place == '.' else 'packages'}.py").write_text("")
print("last", repr(time.time()), flush=True)
"""

#: Runs twice: with the same requirements as the leaking task, and with none.
LOOKING = """\
import importlib.util
import time

print("first", repr(time.time()), flush=True)
for name in ("tabulate", "leaked_packages", "leaked_here"):
    if importlib.util.find_spec(name) is not None:
        print("importable", name)
print("last", repr(time.time()), flush=True)
"""

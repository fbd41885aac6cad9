"""`python -m agent.executor RUN_DIR`: run the task of one run directory."""

from __future__ import annotations

import sys

from agent.executor.lifecycle import main

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m agent.executor RUN_DIR\n")
        sys.exit(2)
    sys.exit(main(sys.argv[1]))

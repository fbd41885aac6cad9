"""`python -m agent.cli`, the same as `clearml-agent`."""

import sys

from agent.cli import main

sys.exit(main())

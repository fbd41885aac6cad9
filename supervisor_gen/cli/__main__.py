"""`python -m supervisor_gen.cli`."""

import sys

from supervisor_gen.cli import main

sys.exit(main())

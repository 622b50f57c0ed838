"""`python -m scratchdiff` is the command `scratchdiff`."""

import sys

from scratchdiff.cli import main

sys.exit(main())

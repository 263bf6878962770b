"""`python -m shortlist`: the command line, where the `shortlist` script is not on the path."""

import sys

from shortlist.cli import main

sys.exit(main())

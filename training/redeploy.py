"""`python -m training.redeploy`: `shortlist redeploy` as a job of its own, with the same options.

ray job submit -- python -m training.redeploy retrieval --workdir W
"""

from __future__ import annotations

import sys

from shortlist.cli import main

if __name__ == "__main__":
    sys.exit(main(["redeploy", *sys.argv[1:]]))

"""The command of the table of families: `python -m common.families`."""

import sys

from .table import main

if __name__ == "__main__":
    sys.exit(main())

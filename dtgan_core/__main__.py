"""`python -m dtgan_core ...` is the lab's command line: cards and data sets name it so."""

import sys

from dtgan_lab.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

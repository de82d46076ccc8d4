"""`python -m nnbp`: the command line."""

import sys

from nnbp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

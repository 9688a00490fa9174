"""`python -m pruner` is `pruner`."""

import sys

from pruner.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

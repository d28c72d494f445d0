"""`python -m fcn_hub` is the `fcn-hub` command."""

import sys

from fcn_hub.cli import main

if __name__ == "__main__":
    sys.exit(main())

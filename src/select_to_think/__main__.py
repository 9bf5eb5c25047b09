"""`python -m select_to_think` is the same as `s2t`."""

import sys

from select_to_think.cli.app import main

if __name__ == "__main__":
    sys.exit(main())

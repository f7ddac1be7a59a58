"""`python -m senet` is `senet`."""

import sys

from senet.cli import main

if __name__ == "__main__":
    sys.exit(main())

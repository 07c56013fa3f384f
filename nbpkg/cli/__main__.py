"""`python -m nbpkg.cli` is `nbpkg`."""

import sys

from nbpkg.cli import main

if __name__ == "__main__":
    sys.exit(main())

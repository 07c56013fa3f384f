"""`python -m nbpkg.cli` is `nbpkg`."""

import sys

from nbpkg.cli import main

sys.exit(main())

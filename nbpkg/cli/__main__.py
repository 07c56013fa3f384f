"""`python -m nbpkg.cli` is `nbpkg`."""

import sys

from nbpkg.cli.app import main

sys.exit(main())

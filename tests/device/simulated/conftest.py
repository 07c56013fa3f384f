"""These tests run in a process of their own, which has the simulated GPU: `tests/device/test_ground.py` starts it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import fakecuda

fakecuda.install()

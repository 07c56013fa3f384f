"""These tests run in a process of their own with the simulated GPU, which `test_ground.py` starts."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import fakecuda

fakecuda.install()

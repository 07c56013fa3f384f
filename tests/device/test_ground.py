"""What lies under the chapters, on the simulated GPU: `simulated/`, in a process that has it."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_the_ground_is_right_on_a_gpu(simulated_gpu):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", HERE / "simulated"]
    done = subprocess.run(command, env=simulated_gpu, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

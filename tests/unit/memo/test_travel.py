"""A notebook's cached functions in worker processes: results are kept by each, and never outlive the code."""

import subprocess
import sys

SCRIPT = """
import functools, sys
import nbpkg.memo.travel
from nbpkg.parallel import unordered

FACTOR = 5

@functools.lru_cache(1)
def slow(x):
    open(sys.argv[1], "a").write("x")
    return FACTOR * x

@functools.lru_cache(1)
def outer(x):
    return slow(x) + 1

def work(k, x):
    return k, outer(x)

for FACTOR in (5, 5, 7):
    results = dict(result for _, result in unordered(work, [(k, 3) for k in range(8)], workers=2))
    assert results == dict.fromkeys(range(8), 3 * FACTOR + 1), results
"""


def test_workers_keep_what_a_cached_function_of_the_main_module_returned(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    calls = tmp_path / "calls"
    subprocess.run([sys.executable, tmp_path / "script.py", calls], check=True, timeout=300)
    assert 2 <= len(calls.read_text()) <= 4  # once a worker and code, at most

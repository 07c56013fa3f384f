"""Runs a chapter on the simulated GPU and says what ran where: `python tests/device/run_chapter.py 03_help`.

Nothing of the chapter is changed: it is given DEVICE="cuda" and believes it. Every piece is made anew, in
this process: a cache of its own, and no worker processes. Leaves in the folder `--out` 03_help.json with what
was counted, and 03_help.record.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import fakecuda
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from nbpkg import paths
from nbpkg.runner import child
from nbpkg.session import result_cache
from nbpkg.session.result_cache import ResultCache
from nbpkg.session.session import Session
from nbpkg.zoo import train
from nbpkg.zoo.recipes import Zoo

steps = 0  # of optimisers


def _count_step(*_: object) -> None:
    global steps
    steps += 1


def _here(function, calls, workers: int = 1, cluster=None) -> Iterator:
    """Stands in for `unordered`: worker processes would have no simulated device."""
    return enumerate(function(*call) for call in calls)


def _name_what_is_counted() -> None:
    """Sections and stored pieces give their names to what is counted within."""
    sections: list[str] = []
    section, memo, memo_each = Session.section, ResultCache.memo, ResultCache.memo_each

    @contextmanager
    def named_section(self, name):
        sections.append(name)
        try:
            with fakecuda.scope(" / ".join(sections)), section(self, name):
                yield
        finally:
            sections.pop()

    def within(method):
        def named(self, name, *given, **more):
            with fakecuda.scope(" / ".join([*sections, f"piece {self.prefix}{name}"])):
                return method(self, name, *given, **more)

        return named

    Session.section = named_section
    ResultCache.memo, ResultCache.memo_each = within(memo), within(memo_each)


def run(chapter: str, out: Path, profile: str = "smoke", device: str = "cuda", small: bool = False) -> dict:
    """Execute the chapter; returns and writes what happened.

    small: smoke's sizes whatever the profile, so that its branches take minutes.
    """
    torch.set_num_threads(1)
    fakecuda.install()
    if small:
        Session.choose = lambda self, *, smoke, standard, paper=None: smoke
        Zoo.parts = lambda self, profile: self.make("smoke")
    _name_what_is_counted()
    result_cache.unordered = train.unordered = _here
    register_optimizer_step_post_hook(_count_step)
    child.CellProgress._write = lambda *_, **__: None
    out.mkdir(parents=True, exist_ok=True)
    record = out / f"{chapter}.record.json"
    os.environ["NBPKG_RECORD"] = str(record)
    parameters = {"PROFILE": profile, "SEEDS": [0], "DEVICE": device}
    job = {"chapter": chapter, "cwd": str(paths.root()), "parameters": parameters}
    fakecuda.start(paths.root())
    started = time.process_time()
    result = child.execute_script(job, out)
    spent = time.process_time() - started
    fakecuda.stop()
    found = {"chapter": chapter, "result": result, "cpu_s": spent, "steps": steps, **_counted()}
    found["record"] = json.loads(record.read_text()) if record.is_file() else {}
    (out / f"{chapter}.json").write_text(json.dumps(found))
    return found


def _counted() -> dict:
    """The tallies in all, by section and piece, and by line."""
    lines, _ = fakecuda.report()
    total, scopes = fakecuda.Tally(), defaultdict(fakecuda.Tally)
    for (name, *_), tally in lines.items():
        scopes[name] += tally
        total += tally
    return {
        "share": total.share,
        "total": asdict(total),
        "allocated_bytes": torch.cuda.memory_stats()["allocated_bytes.all.allocated"],
        "scopes": {name: asdict(tally) | {"share": tally.share} for name, tally in scopes.items()},
        "lines": [[*key, asdict(tally)] for key, tally in lines.items()],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapter")
    parser.add_argument("--out", type=Path, default=Path("runs/device"))
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="smoke's sizes whatever the profile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        fakecuda.build()  # in the user's cache, before it is another
        os.environ["NBPKG_CACHE"] = cache
        found = run(options.chapter, options.out.resolve(), options.profile, options.device, options.small)
    print(f"{options.chapter}: {found['result']['status']} {found['result'].get('error', '')}")
    return int(found["result"]["status"] != "done")


if __name__ == "__main__":
    sys.exit(main())

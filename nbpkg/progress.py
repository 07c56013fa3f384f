"""Progress in a few plain lines, which stay readable in a stored notebook and in a log."""

import re
import time
from collections.abc import Iterable, Iterator

LINES = 10
LINE = re.compile(r"^\S.*  elapsed \S+ (s|min|h)(  about \S+ (s|min|h) left)?$")  # what `progress` prints
PAUSE = 2.0  # seconds between two lines at least, so that quick loops print only their end


def duration(seconds: float, tenths: bool = False) -> str:
    """Seconds as text: below ten minutes in seconds, then in minutes, from three hours on in hours.

    tenths: of a second, below ten seconds; not in progress, whose lines are compared between runs.
    """
    if seconds < 600:
        return f"{seconds:.1f} s" if tenths and seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:.1f} h"


def progress(iterable: Iterable, label: str, total: int | None = None, clock=time.perf_counter) -> Iterator:
    """Yields from `iterable` and prints at each tenth of `total` (default: its length), but not more often
    than every `PAUSE` seconds, with the time elapsed and left; and once at the end. Without a known length it
    prints when the elapsed time has doubled.
    """
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    started = last = clock()
    done, mark, patience = 0, 1, 10.0
    for item in iterable:
        yield item
        done += 1
        now = clock()
        if total and done < total:
            if done * LINES >= mark * total and now - last >= PAUSE:
                left = duration((now - started) / done * (total - done))
                so_far = f"{done}/{total}  {100 * done // total} %  elapsed {duration(now - started)}"
                print(f"{label}  {so_far}  about {left} left", flush=True)
                mark, last = done * LINES // total + 1, now
        elif not total and now - started >= patience:
            print(f"{label}  {done}  elapsed {duration(now - started)}", flush=True)
            patience = 2 * (now - started)
    count = f"{done}/{total}  {100 * done // total} %" if total else str(done)
    print(f"{label}  {count}  elapsed {duration(clock() - started)}", flush=True)

"""What a session shows: Markdown, and the source of the package."""

import inspect
import sys
from typing import Any

from nbpkg.errors import NbpkgError


def say(markdown: str) -> None:
    """Shows Markdown in a notebook, prints it in a script."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import Markdown, display

        display(Markdown(markdown))
    else:
        print(markdown)


def show(*things: Any) -> None:
    """Shows the source of classes, functions and methods of `nbpkg`, as the reader's own code is shown.

    Raises NbpkgError for what has no source.
    """
    for thing in things:
        try:
            text = inspect.cleandoc("\n" + inspect.getsource(thing))
        except (TypeError, OSError):
            raise NbpkgError(f"{thing!r} has no source that could be shown") from None
        say(f"`{thing.__qualname__}`, in `{thing.__module__}`:\n\n```python\n{text}\n```")

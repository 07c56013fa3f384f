"""What a session shows: Markdown."""

import sys


def say(markdown: str) -> None:
    """Shows Markdown in a notebook, prints it in a script."""
    ipython = sys.modules.get("IPython")
    if ipython is not None and ipython.get_ipython() is not None:
        from IPython.display import Markdown, display

        display(Markdown(markdown))
    else:
        print(markdown)

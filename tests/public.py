"""Public data in tests: present only where `NBPKG_DATA` names a folder that holds it."""

import os

import pytest


def needs(*names: str) -> pytest.MarkDecorator:
    """A mark that skips a test unless every data set called in `names` is complete in `NBPKG_DATA`.

    A corrupt file does not skip: it makes the test fail, with the file's name.
    """
    from nbpkg import data

    if not os.environ.get("NBPKG_DATA"):
        return pytest.mark.skipif(True, reason=f"NBPKG_DATA is not set, so {', '.join(names)} cannot be used")
    states = [state for name in names for state in data.verify(name)]
    lacking = sorted(
        {state.path for state in states if state.where != "NBPKG_DATA" and state.status != "corrupt"}
    )
    return pytest.mark.skipif(bool(lacking), reason=f"NBPKG_DATA lacks {len(lacking)} files: {lacking[:1]}")

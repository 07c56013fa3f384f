"""Calls that go wrong, in a module that loads nothing heavy into the worker processes."""

import os
import signal

from nbpkg.errors import NbpkgError


def die(number):
    """End this process as the system does for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse_two(number):
    if number == 2:
        raise NbpkgError("two is refused")
    return number

"""Executes chapters: several at once, each in a process of its own, resumable."""

from nbpkg.runner.queue import Outcome, run

__all__ = ["Outcome", "run"]

"""Helpers behind the notebooks of *Transferable AutoML, Reproduced*."""

__version__ = "0.1.0"

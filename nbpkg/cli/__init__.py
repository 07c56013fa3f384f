"""The command line."""

from nbpkg.cli.app import app, main

__all__ = ["app", "main"]

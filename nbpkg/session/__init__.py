"""What a chapter talks to while it runs: sizes, log of metrics and claims, kept results, and its record."""

from nbpkg.session.session import Session

__all__ = ["Session"]

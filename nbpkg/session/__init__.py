"""What a chapter talks to while it runs: sizes, its log of metrics and claims, its kept results, its record."""

from nbpkg.session.session import Session

__all__ = ["Session"]

"""The session of a chapter."""

from nbpkg.session.session import Session

__all__ = ["Session"]

"""Results that are computed once and kept: keys of live code and data, and a store without pickles."""

from nbpkg.memo.store import Computed, Entry, cached, key_of, measured

__all__ = ["Computed", "Entry", "cached", "key_of", "measured"]

"""Results that are computed once and kept: keys of live code and data, and a store without pickles."""

"""Timing of networks on this machine, and the memory of a function's tensors."""

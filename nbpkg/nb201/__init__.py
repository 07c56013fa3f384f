"""NAS-Bench-201: the space of cells, its tables, its networks and what they cost.

``space`` needs numpy only; ``table`` loads its readers when they are used; ``network`` needs torch.
"""

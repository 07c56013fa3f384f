"""A generated language whose exact optimum is known."""

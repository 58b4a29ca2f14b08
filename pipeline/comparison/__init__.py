"""Two runs of a recipe against each other: what became faster, slower, wrong, right, larger."""

LEAST = 0.10
"""A change by less than a tenth is held for nothing."""

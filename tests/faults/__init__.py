"""Wrong artifacts that must be caught, and right ones that must not be: every fault is in a file or a model."""

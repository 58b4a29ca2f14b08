"""Models that are no plain function of plain tensors, and what is asked again of those that are hard."""

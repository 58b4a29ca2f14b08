"""Two runs of a recipe against each other: what became faster, slower, wrong, right, larger."""

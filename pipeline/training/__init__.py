"""From a recipe to a checkpoint, and what is measured of it."""

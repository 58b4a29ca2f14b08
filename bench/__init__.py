"""From artifacts to numbers to judgement. Knows nothing of training; never sees a recipe."""

"""From evidence to judgement: figures, limits, the ranking of what may ship, the verdict."""

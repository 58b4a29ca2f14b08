"""Statistics of timings, derived from raw samples when read."""

"""Bundles of a GPU's winner: what they say, and what their check does, on machines without a GPU."""

"""Triton's real core, to load and ask the repositories that ship."""

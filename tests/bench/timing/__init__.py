"""Measuring in fresh processes."""

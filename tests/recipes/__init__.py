"""Recipes that are measured and not shipped."""

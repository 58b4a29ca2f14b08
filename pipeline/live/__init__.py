"""Runs without a recipe: a module that lives in the user's process, and what is known of it from examples."""

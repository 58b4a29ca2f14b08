"""The built-in recipes: their data, their baselines, and each from nothing to a verdict (slow)."""

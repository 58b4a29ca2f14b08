"""Archives that somebody arranged, and programs that carry code."""

"""The inside of programs and artifacts: every value by name, and any one computed from chosen others."""

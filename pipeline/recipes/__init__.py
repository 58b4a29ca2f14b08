"""Built-in recipes, one file each; the first line of a file's docstring is what ``--help`` shows of it."""

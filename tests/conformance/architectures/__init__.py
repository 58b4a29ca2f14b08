"""The architectures, a file a kind: every public function returns a recipe, as a user would write it."""

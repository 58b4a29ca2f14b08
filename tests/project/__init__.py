"""What surrounds the packages: wheel and sdist, examples, the site of the docs, the workflows."""

"""One file per backend, named after it; ``export.backend`` has the contract. They never import each other."""

"""From a run to what is deployed: the bundle, its proof, its serving forms, and the releases of a serving folder."""

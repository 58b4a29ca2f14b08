"""From a run to what is deployed: the bundle, its proof, its serving forms, and the shelf that it is put on."""

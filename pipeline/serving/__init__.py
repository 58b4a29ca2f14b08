"""A server for verified bundles on one machine: the Open Inference Protocol v2 over HTTP."""

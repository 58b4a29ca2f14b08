"""A conformance suite for servers of the Open Inference Protocol v2 over HTTP: ``python -m tests.oip URL``."""

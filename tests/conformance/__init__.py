"""The conformance suite: architectures of all kinds, as users write them, and what becomes of them."""

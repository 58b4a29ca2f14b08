"""Timing on a GPU, held by devices of the tests' own and a module that answers as NVML does."""

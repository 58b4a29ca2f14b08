"""Everything that only a CUDA machine can show: one script of independent steps, ``python -m tests.gpu``."""

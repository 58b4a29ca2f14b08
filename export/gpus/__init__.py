"""NVIDIA GPUs as their driver tells of them; no torch, no CUDA."""

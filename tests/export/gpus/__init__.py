"""What is said of GPUs, held by a module that answers as NVML does: there is no GPU here."""

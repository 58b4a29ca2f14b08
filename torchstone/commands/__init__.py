"""The subcommands that only ``torchstone`` has, one file each, and what they read."""

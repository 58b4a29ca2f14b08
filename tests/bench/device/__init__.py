"""Devices that return before they have computed, played by the CPU."""

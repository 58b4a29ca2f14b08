"""The levels of the parity check, one file each."""

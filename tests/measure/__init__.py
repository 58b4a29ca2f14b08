"""The scripts behind docs/measured/."""

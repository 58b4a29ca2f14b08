"""Inputs that functions draw: what they are held to, and whoever calls with them."""

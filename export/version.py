"""The version of Torchstone, in one place; the newest CHANGELOG entry carries the same."""

VERSION = "0.1.0"

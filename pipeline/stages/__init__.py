"""The stages of a run, each from the records before it to its own; ``pipeline/all.py`` puts them in order."""

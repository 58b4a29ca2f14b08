"""The check of a bundle, in parts that need the standard library alone.

They are written for Python 3.9 and later, import nothing of Torchstone but each other, and share no private name, so
that ``pipeline/bundle/single_file.py`` can join them into the one file that a bundle carries.
"""

"""The check of a bundle: standard library, numpy and onnxruntime alone, for Python 3.9 and later.

Nothing here imports any other part of Torchstone, since ``pipeline/bundle/pack.py`` packs this folder as it is into the
archive that every bundle carries. This file stays without imports: it runs before ``__main__.py`` has made them safe.
"""

CHILD = "--child"
"""The argument with which the command starts itself to run one artifact."""

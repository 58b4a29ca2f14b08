"""The commands besides ``pipeline.all``, one file each."""

"""The forms in which servers take a bundle, one file each."""

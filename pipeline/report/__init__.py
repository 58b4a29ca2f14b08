"""The report of a run: one self-contained HTML page for a browser, one table for a terminal."""

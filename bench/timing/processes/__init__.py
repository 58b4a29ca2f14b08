"""Fresh processes for measuring: loaded side by side, timed in turn."""

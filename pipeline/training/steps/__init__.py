"""One step of training: taken operator by operator, or at once."""

"""Where an artifact first departs from the model: module, operator, and line of the user's code."""

"""What a training is between two steps, and how that is saved and taken up again."""

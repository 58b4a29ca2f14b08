"""What is seen of a training while it runs and afterwards: figures, times, traces, and what is not finite."""

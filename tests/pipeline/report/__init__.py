"""What a person reads at the end of a run, on a terminal of any width."""

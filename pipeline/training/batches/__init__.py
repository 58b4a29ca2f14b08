"""The batches of an epoch, from any one on: a function of the seed, the epoch and the step, with no state to keep."""

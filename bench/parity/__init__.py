"""Whether an artifact computes the same function as the model in float64, as well as eager float32 does."""

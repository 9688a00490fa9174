"""What a mask can keep or drop: weights, tiles, filters and heads, found by tracing the network."""

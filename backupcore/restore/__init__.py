"""Floor 4: the chain of a moment, the ranges to read, the delivery; list and find."""

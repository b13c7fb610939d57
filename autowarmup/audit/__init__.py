"""Whether a training applies the learning rates of its schedule."""

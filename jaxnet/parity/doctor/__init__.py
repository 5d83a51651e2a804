"""Does the JAX of this machine compute what it should? Compiled against NumPy in float64."""

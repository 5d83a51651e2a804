"""Frameworks as participants: JAX, Flax nnx, optax and torch, a file for each."""

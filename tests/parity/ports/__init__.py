"""Real torch programs, their right ports to JAX, and bugs that porters make."""

from ports import attention, convolution

KINDS = {"attention": attention.KIND, "convolution": convolution.KIND}

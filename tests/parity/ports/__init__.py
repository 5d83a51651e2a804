"""Real torch programs, their right ports to JAX, and bugs that porters make."""

from ports import attention, convolution, frozen, gated, recurrent, training

KINDS = {
    "attention": attention.KIND,
    "convolution": convolution.KIND,
    "LSTM": recurrent.LSTM,
    "GRU": gated.KIND,
    "training": training.KIND,
    "frozen": frozen.KIND,
}

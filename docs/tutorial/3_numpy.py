# %% function
import numpy as np

from problem import w1, w2, x, y


def my_relu(h):
    """Return the output, and the rule."""

    def backward(grad):
        return np.where(h < 0, 0, grad)

    return np.maximum(h, 0), backward


# %% gradient
_, backward = my_relu(np.array([-1, 0, 1]))
grad = backward(np.ones(3))
print("at -1, 0, 1:", grad.tolist())

# %% train
for t in range(500):
    h_relu, backward = my_relu(x @ w1)
    error = h_relu @ w2 - y
    loss = np.square(error).sum()
    g2 = h_relu.T @ (2 * error)
    g1 = x.T @ backward(2 * error @ w2.T)
    w1 = w1 - 1e-6 * g1
    w2 = w2 - 1e-6 * g2
    if t % 100 == 99:
        print(t, f"{loss:.6e}")

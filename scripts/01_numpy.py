"""01. NumPy: a two-layer network whose gradients are derived by hand."""

import numpy as np

N, D_in, H, D_out = 64, 1000, 100, 10
learning_rate = 1e-6

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in))
y = rng.standard_normal((N, D_out))
w1 = rng.standard_normal((D_in, H))
w2 = rng.standard_normal((H, D_out))

for t in range(500):
    # Forward: two matrix products with a ReLU between them, then the sum of squared errors.
    h = x @ w1
    h_relu = np.maximum(h, 0)
    y_pred = h_relu @ w2
    loss = np.square(y_pred - y).sum()
    if t % 100 == 99:
        print(f"{t} {loss:.6e}")

    # Backward: the chain rule, from the loss to each weight.
    grad_y_pred = 2 * (y_pred - y)
    grad_w2 = h_relu.T @ grad_y_pred
    grad_h = np.where(h < 0, 0, grad_y_pred @ w2.T)
    grad_w1 = x.T @ grad_h

    w1 -= learning_rate * grad_w1
    w2 -= learning_rate * grad_w2

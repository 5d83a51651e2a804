# %% model
import numpy as np

from problem import D_in, D_out, H, linear, x, y


def loss_and_grads(w1, b1, w2, b2):
    h = x @ w1 + b1
    h_relu = np.maximum(h, 0)
    error = h_relu @ w2 + b2 - y
    grad_y = 2 * error
    grad_h = np.where(h > 0, grad_y @ w2.T, 0)
    return np.square(error).sum(), [
        x.T @ grad_h,
        grad_h.sum(axis=0),
        h_relu.T @ grad_y,
        grad_y.sum(axis=0),
    ]


# %% weights
params = [
    *linear(D_in, H),
    *linear(H, D_out),
]

# %% gradient
_, grads = loss_and_grads(*params)
print(f"grad w1 {np.linalg.norm(grads[0]):.6e}")

# %% optimizer
m = [np.zeros_like(p) for p in params]
v = [np.zeros_like(p) for p in params]


def step(t):
    loss, grads = loss_and_grads(*params)
    for i, g in enumerate(grads):
        m[i] = 0.9 * m[i] + 0.1 * g
        v[i] = 0.999 * v[i] + 0.001 * g * g
        m_hat = m[i] / (1 - 0.9 ** (t + 1))
        v_hat = v[i] / (1 - 0.999 ** (t + 1))
        root = np.sqrt(v_hat) + 1e-8
        params[i] -= 1e-4 * m_hat / root
    return loss


# %% train
for t in range(500):
    loss = step(t)
    if t % 100 == 99:
        print(t, f"{loss:.6e}")

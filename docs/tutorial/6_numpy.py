# %% model
import numpy as np

from problem import D_in, D_out, H, linear, x, y

params = [
    *linear(D_in, H),
    *linear(H, H),
    *linear(H, D_out),
]


def loss_and_grads(repeats):
    w1, b1, w2, b2, w3, b3 = params
    hs = [np.maximum(x @ w1 + b1, 0)]
    for _ in range(repeats):
        h = np.maximum(hs[-1] @ w2 + b2, 0)
        hs.append(h)
    error = hs[-1] @ w3 + b3 - y

    grad_y = 2 * error
    g3 = [
        hs[-1].T @ grad_y,
        grad_y.sum(axis=0),
    ]
    g2 = [
        np.zeros_like(w2),
        np.zeros_like(b2),
    ]
    grad = grad_y @ w3.T
    for i in reversed(range(repeats)):
        grad = np.where(hs[i + 1] > 0, grad, 0)
        g2[0] += hs[i].T @ grad
        g2[1] += grad.sum(axis=0)
        grad = grad @ w2.T
    grad = np.where(hs[0] > 0, grad, 0)
    g1 = [x.T @ grad, grad.sum(axis=0)]
    loss = np.square(error).sum()
    return loss, g1 + g2 + g3


# %% gradient
for repeats in range(4):
    _, grads = loss_and_grads(repeats)
    norm = np.linalg.norm(grads[2])
    print(f"repeats {repeats} {norm:.6e}")

# %% train
trace = [np.zeros_like(p) for p in params]


def step(repeats):
    loss, grads = loss_and_grads(repeats)
    for i, g in enumerate(grads):
        trace[i] = 0.9 * trace[i] + g
        params[i] -= 1e-4 * trace[i]
    return loss


for t in range(500):
    loss = step(t % 4)
    if t % 100 == 99:
        print(t, f"{loss:.6e}")

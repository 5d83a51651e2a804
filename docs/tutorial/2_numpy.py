# %% start
import numpy as np

from problem import w1, w2, x, y

w = {"w1": w1.copy(), "w2": w2.copy()}


# %% loss
def loss_and_grads(w):
    h = x @ w["w1"]
    h_relu = np.maximum(h, 0)
    error = h_relu @ w["w2"] - y
    grad_h = 2 * error @ w["w2"].T
    return np.square(error).sum(), {
        "w1": x.T @ np.where(h < 0, 0, grad_h),
        "w2": h_relu.T @ (2 * error),
    }


# %% gradient
_, grads = loss_and_grads(w)
for k in w:
    g = np.linalg.norm(grads[k])
    print(f"grad {k} {g:.6e}")

# %% train
for t in range(500):
    loss, grads = loss_and_grads(w)
    for k in w:
        w[k] -= 1e-6 * grads[k]
    if t % 100 == 99:
        print(t, f"{loss:.6e}")

# %% start
import torch

from problem import w1, w2, x, y

x, y = torch.tensor(x), torch.tensor(y)
w1, w2 = torch.tensor(w1), torch.tensor(w2)


# %% forward
def forward(w1, w2):
    h = x.mm(w1)
    h_relu = h.clamp(min=0)
    return h, h_relu, h_relu.mm(w2)


def loss_fn(y_pred):
    return (y_pred - y).pow(2).sum()


# %% backward
def backward(w2, h, h_relu, y_pred):
    grad_y = 2 * (y_pred - y)
    grad_w2 = h_relu.t().mm(grad_y)
    grad_h = grad_y.mm(w2.t())
    grad_h[h < 0] = 0
    return x.t().mm(grad_h), grad_w2


# %% gradient
g1, g2 = backward(w2, *forward(w1, w2))
print(f"grad w1 {g1.norm():.6e}")
print(f"grad w2 {g2.norm():.6e}")

# %% train
for t in range(500):
    h, h_relu, y_pred = forward(w1, w2)
    g1, g2 = backward(w2, h, h_relu, y_pred)
    w1 -= 1e-6 * g1
    w2 -= 1e-6 * g2
    if t % 100 == 99:
        print(t, f"{loss_fn(y_pred):.6e}")

# %% start
import torch

from problem import w1, w2, x, y

x, y = torch.tensor(x), torch.tensor(y)
w1 = torch.tensor(w1, requires_grad=True)
w2 = torch.tensor(w2, requires_grad=True)


# %% loss
def loss_fn(w1, w2):
    h_relu = x.mm(w1).clamp(min=0)
    y_pred = h_relu.mm(w2)
    return (y_pred - y).pow(2).sum()


# %% gradient
loss = loss_fn(w1, w2)
loss.backward()
print(f"grad w1 {w1.grad.norm():.6e}")
print(f"grad w2 {w2.grad.norm():.6e}")
w1.grad = w2.grad = None

# %% train
for t in range(500):
    loss = loss_fn(w1, w2)
    loss.backward()
    with torch.no_grad():
        w1 -= 1e-6 * w1.grad
        w2 -= 1e-6 * w2.grad
        w1.grad.zero_()
        w2.grad.zero_()
    if t % 100 == 99:
        print(t, f"{loss.item():.6e}")

# %% model
import numpy as np

from problem import D_in, D_out, H, linear, x, y


class Linear:
    def __init__(self, d_in, d_out):
        self.w, self.b = linear(d_in, d_out)

    def forward(self, x):
        self.x = x
        return x @ self.w + self.b

    def backward(self, grad):
        self.grad_w = self.x.T @ grad
        self.grad_b = grad.sum(axis=0)
        return grad @ self.w.T


class TwoLayerNet:
    def __init__(self, d_in, hidden, d_out):
        self.linear1 = Linear(d_in, hidden)
        self.linear2 = Linear(hidden, d_out)

    def forward(self, x):
        self.h = self.linear1.forward(x)
        h_relu = np.maximum(self.h, 0)
        return self.linear2.forward(h_relu)

    def backward(self, grad):
        grad_h = self.linear2.backward(grad)
        grad_h[self.h < 0] = 0
        self.linear1.backward(grad_h)


# %% weights
model = TwoLayerNet(D_in, H, D_out)
layers = {
    "linear1": model.linear1,
    "linear2": model.linear2,
}

# %% gradient
model.backward(2 * (model.forward(x) - y))
for name, layer in layers.items():
    w = np.linalg.norm(layer.grad_w)
    b = np.linalg.norm(layer.grad_b)
    print(f"{name} weight {w:.6e}")
    print(f"{name} bias   {b:.6e}")

# %% train
for t in range(500):
    error = model.forward(x) - y
    loss = np.square(error).sum()
    model.backward(2 * error)
    for layer in layers.values():
        layer.w -= 1e-4 * layer.grad_w
        layer.b -= 1e-4 * layer.grad_b
    if t % 100 == 99:
        print(t, f"{loss:.6e}")

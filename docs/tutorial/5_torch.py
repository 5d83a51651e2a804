# %% model
import torch
from torch import nn

from problem import D_in, D_out, H, linear, x, y

torch.set_default_dtype(torch.float64)
x, y = torch.tensor(x), torch.tensor(y)


class TwoLayerNet(nn.Module):
    def __init__(self, d_in, hidden, d_out):
        super().__init__()
        self.linear1 = nn.Linear(d_in, hidden)
        self.linear2 = nn.Linear(hidden, d_out)

    def forward(self, x):
        h_relu = self.linear1(x).clamp(min=0)
        return self.linear2(h_relu)


# %% weights
model = TwoLayerNet(D_in, H, D_out)
w1, b1 = map(torch.tensor, linear(D_in, H))
w2, b2 = map(torch.tensor, linear(H, D_out))
model.load_state_dict(
    {
        "linear1.weight": w1.T,
        "linear1.bias": b1,
        "linear2.weight": w2.T,
        "linear2.bias": b2,
    }
)

# %% gradient
loss_fn = nn.MSELoss(reduction="sum")
loss_fn(model(x), y).backward()
for name, layer in model.named_children():
    for leaf in ("weight", "bias"):
        g = getattr(layer, leaf).grad
        print(
            f"{name} {leaf:6s} {g.norm():.6e}"
        )

# %% train
optimizer = torch.optim.SGD(
    model.parameters(), lr=1e-4
)
for t in range(500):
    loss = loss_fn(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if t % 100 == 99:
        print(t, f"{loss.item():.6e}")

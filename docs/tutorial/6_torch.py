# %% model
import torch
from torch import nn

from problem import D_in, D_out, H, linear, x, y

torch.set_default_dtype(torch.float64)
x, y = torch.tensor(x), torch.tensor(y)


def layer(d_in, d_out):
    made = nn.Linear(d_in, d_out)
    w, b = map(
        torch.tensor, linear(d_in, d_out)
    )
    made.load_state_dict(
        {"weight": w.T, "bias": b}
    )
    return made


class DynamicNet(nn.Module):
    def __init__(self, d_in, hidden, d_out):
        super().__init__()
        self.first = layer(d_in, hidden)
        self.middle = layer(hidden, hidden)
        self.last = layer(hidden, d_out)

    def forward(self, x, repeats):
        h = self.first(x).clamp(min=0)
        for _ in range(repeats):
            h = self.middle(h).clamp(min=0)
        return self.last(h)


model = DynamicNet(D_in, H, D_out)
loss_fn = nn.MSELoss(reduction="sum")

# %% gradient
for repeats in range(4):
    model.zero_grad()
    loss_fn(model(x, repeats), y).backward()
    grad = model.middle.weight.grad
    norm = 0 if grad is None else grad.norm()
    print(f"repeats {repeats} {norm:.6e}")

# %% train
optimizer = torch.optim.SGD(
    model.parameters(),
    lr=1e-4,
    momentum=0.9,
)


def step(repeats):
    loss = loss_fn(model(x, repeats), y)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    optimizer.step()
    return loss.item()


for t in range(500):
    loss = step(t % 4)
    if t % 100 == 99:
        print(t, f"{loss:.6e}")

# %% model
import torch
from torch import nn

from problem import D_in, D_out, H, linear, x, y

torch.set_default_dtype(torch.float64)
x, y = torch.tensor(x), torch.tensor(y)

model = nn.Sequential(
    nn.Linear(D_in, H),
    nn.ReLU(),
    nn.Linear(H, D_out),
)

# %% weights
sizes = {0: (D_in, H), 2: (H, D_out)}
for i in sizes:
    w, b = map(torch.tensor, linear(*sizes[i]))
    model[i].load_state_dict(
        {"weight": w.T, "bias": b}
    )

# %% gradient
loss_fn = nn.MSELoss(reduction="sum")
loss_fn(model(x), y).backward()
grad = model[0].weight.grad
print(f"grad w1 {grad.norm():.6e}")

# %% optimizer
optimizer = torch.optim.Adam(
    model.parameters(), lr=1e-4
)


def step():
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


# %% train
for t in range(500):
    loss = step()
    if t % 100 == 99:
        print(t, f"{loss:.6e}")

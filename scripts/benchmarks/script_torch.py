"""What a user of PyTorch would write: python script_torch.py TABLE.csv TARGET EPOCHS."""

import sys

import numpy as np
import torch
from torch import nn

path, target, epochs = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(path) as file:
    place = file.readline().strip().split(",").index(target)
    table = np.loadtxt(file, delimiter=",", dtype=np.float32)
y = torch.tensor(table[:, place].astype(int))
x = torch.tensor(np.delete(table, place, axis=1))
order = torch.randperm(len(x))
held, kept = order[: len(x) // 5], order[len(x) // 5 :]
mean, std = x[kept].mean(0), x[kept].std(0).clamp(min=1e-8)
x = (x - mean) / std
model = nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, int(y.max()) + 1))
optimizer, loss = torch.optim.Adam(model.parameters(), fused=True), nn.CrossEntropyLoss()
for _ in range(epochs):
    for rows in kept[torch.randperm(len(kept))].split(32):
        optimizer.zero_grad()
        loss(model(x[rows]), y[rows]).backward()
        optimizer.step()
with torch.no_grad():
    right = (model(x).argmax(1) == y).float()
print("train", right[kept].mean().item(), "validation", right[held].mean().item())
torch.save({"mean": mean, "std": std, **model.state_dict()}, "model.pt")

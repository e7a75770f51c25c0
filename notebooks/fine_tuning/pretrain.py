"""Train a small network of torch on the first 1000 digits of scikit-learn, and save the checkpoint of it.

Run it in this directory, with torch and scikit-learn: ``python pretrain.py``.
The notebook fine_tuning.ipynb starts from the checkpoint.
"""

import pathlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

CLASSES, IMAGES, EPOCHS, SIZE = 10, 1000, 30, 50


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, CLASSES)

    def forward(self, x):
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        x = torch.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


def main():
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images[:IMAGES] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.tensor(labels[:IMAGES])
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        order = torch.tensor(rng.permutation(len(labels)))
        for rows in order.split(SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        probe = {"images": images[:4].clone(), "logits": model(images[:4])}
    checkpoint = {"model": model.state_dict(), "probe": probe, "classes": CLASSES, "images": IMAGES}
    torch.save(checkpoint, pathlib.Path("checkpoint.pt"))


if __name__ == "__main__":
    main()

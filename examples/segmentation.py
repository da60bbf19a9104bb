"""Why are these pixels a 3? A segmentation of scenes with two digits, explained for the pixels of one of them.

Run it from the repository with the demo's extra installed: python examples/segmentation.py

`fxlrp.targets.region` starts at one class at all pixels of a mask, here those of one digit as the network found them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import show
from fxlrp.demo.digits import load_digits
from fxlrp.targets import region

SIDE, STEPS, BACKGROUND = 24, 200, 10


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution, its normalization and its activation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Segmentation(nn.Module):
    """A small U-Net: what a coarse look found is put beside the fine one."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = convolution(1, 16)
        self.middle = nn.Sequential(nn.MaxPool2d(2), convolution(16, 32), convolution(32, 32))
        self.coarse = nn.Sequential(nn.MaxPool2d(2), convolution(32, 64), convolution(64, 64))
        self.up = nn.Upsample(scale_factor=2)
        self.mixed = convolution(96, 32)
        self.classes = nn.Conv2d(48, BACKGROUND + 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images)
        middle = self.middle(fine)
        mixed = self.mixed(torch.cat([middle, self.up(self.coarse(middle))], 1))
        logits: Tensor = self.classes(torch.cat([fine, self.up(mixed)], 1))
        return logits


def scenes(images: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scenes with a digit in the left half and one in the right half, and the class of each pixel."""
    pictures = torch.zeros(count, 1, SIDE, SIDE)
    classes = torch.full((count, SIDE, SIDE), BACKGROUND)
    for scene in range(count):
        for left in (0, SIDE // 2):
            chosen = int(torch.randint(len(images), ()))
            top, start = int(torch.randint(SIDE - 8, ())), left + int(torch.randint(SIDE // 2 - 8, ()))
            pictures[scene, :, top : top + 8, start : start + 8] = images[chosen]
            ink = images[chosen, 0] > 0.3
            classes[scene, top : top + 8, start : start + 8][ink] = labels[chosen]
    return pictures, classes


torch.manual_seed(0)
digits, model = load_digits(), Segmentation()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=STEPS)
for _ in range(STEPS):
    pictures, classes = scenes(digits.train_images, digits.train_labels, 32)
    loss = F.cross_entropy(model(pictures), classes, weight=torch.tensor([1.0] * BACKGROUND + [0.1]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
model.eval()

pictures, classes = scenes(digits.test_images, digits.test_labels, 4)
found = model(pictures).argmax(1)
ink = classes != BACKGROUND
print(f"{(found == classes)[ink].float().mean():.1%} of the pixels of digits have the right class")

# For both digits of each scene: the class that most of its pixels have, at these pixels.
explain = fxlrp.compile(model, "epsilon_plus", example_inputs=pictures)
cells, titles = [], []
for scene in range(len(pictures)):
    row: list[Any]
    row, names = [1 - pictures[scene]], ["scene"]
    for half in (slice(0, SIDE // 2), slice(SIDE // 2, SIDE)):
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        label = int(found[scene, :, half][ink[scene, :, half]].mode().values)
        mask[:, half] = found[scene, :, half] == label
        relevance = explain(pictures[scene : scene + 1], target=region(label, mask))
        row.append(show.heatmap(relevance))
        names.append(f"why a {label}")
        share = relevance[..., half].sum() / relevance.sum()
        print(f"scene {scene}: {share:.1%} of the relevance of the pixels of the {label} is in its half")
    cells.append(row)
    titles.append(names)
show.grid(cells, titles=titles, width=1.6).save("segmentation.png")
print("The picture is segmentation.png")

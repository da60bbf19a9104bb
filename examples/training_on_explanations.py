"""Train for the right reasons: a network that reads digits by a planted mark unlearns to look at it.

Run it from the repository with the demo's extra installed: python examples/training_on_explanations.py
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import show
from fxlrp.demo.digits import DigitNet, accuracy, load_digits

STEPS, BATCH_SIZE, WEIGHT = 60, 128, 2.0


def marked(images: Tensor, labels: Tensor) -> Tensor:
    """The images with a mark in the first row, whose column says the class: a confounder."""
    images = images.clone()
    images[:, 0, 0] = F.one_hot(labels % 8, 8).float()
    return images


def share_of_mark(relevance: Tensor) -> Tensor:
    """The share of relevance, in magnitude, that is on the row of the mark."""
    sizes = relevance.abs().sum(1)
    return (sizes[:, 0].sum(1) / sizes.sum((1, 2)).clamp(min=1e-9)).mean()


def trained(start: nn.Module, images: Tensor, labels: Tensor, *, steps: int, rate: float, weight: float) -> nn.Module:
    """A copy of a network after some steps on the cross entropy and, by its weight, on the explanations."""
    torch.manual_seed(0)
    model = copy.deepcopy(start).eval()
    explain = fxlrp.compile(model, rules="epsilon_plus", differentiable=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randperm(len(labels))[:BATCH_SIZE]
        # The model is trained in training mode and explained in eval mode. Call the model first, because BatchNorm
        # changes its statistics in place.
        loss = F.cross_entropy(model.train()(images[rows]), labels[rows])
        if weight:
            loss = loss + weight * share_of_mark(explain(images[rows], target=labels[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


digits = load_digits()
images, labels = marked(digits.train_images, digits.train_labels), digits.train_labels
test_images, test_labels = marked(digits.test_images, digits.test_labels), digits.test_labels

# First the network learns from the marked digits, then it is trained further, without and with explanations.
torch.manual_seed(0)
confounded = trained(DigitNet(), images, labels, steps=150, rate=0.003, weight=0.0)
plain = trained(confounded, images, labels, steps=STEPS, rate=0.001, weight=0.0)
right = trained(confounded, images, labels, steps=STEPS, rate=0.001, weight=WEIGHT)

relevance = {}
for name, model in (("confounded", confounded), (f"{STEPS} steps", plain), ("with explanations", right)):
    relevance[name] = fxlrp.compile(model, rules="epsilon_plus")(test_images, target=test_labels)
    print(
        f"{name:18} relevance on the mark {share_of_mark(relevance[name]):6.1%}   "
        f"accuracy {accuracy(model, test_images, test_labels):6.1%}, "
        f"without the mark {accuracy(model, digits.test_images, test_labels):6.1%}"
    )

# Each digit with its mark, and its relevance before and after.
before, after = relevance[f"{STEPS} steps"], relevance["with explanations"]
cells = [[1 - test_images[index], show.heatmap(before[index]), show.heatmap(after[index])] for index in range(4)]
titles = ["digit and mark", "classes only", "and explanations"]
show.grid(cells, titles=titles, rows=[str(label) for label in test_labels[:4].tolist()], width=1.4).save(
    "training_on_explanations.png"
)

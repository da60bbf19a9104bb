"""Small models for long runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def pixels() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    return nn.Sequential(*layers).eval()


class Branching(nn.Module):
    """Needs ``torch.export``, because symbolic tracing cannot follow its condition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(x)) if x.shape[1] == 4 else x


def batch() -> Tensor:
    return torch.linspace(-1, 1, 8).reshape(2, 4)


def images() -> Tensor:
    return torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8)

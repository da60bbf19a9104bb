"""Small models, their explainers and inputs."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import fxlrp


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


class Tokens(nn.Module):
    """A class for each token, as language models have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.relu(self.embedding(ids).cumsum(1)))


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))


class Several(nn.Module):
    """Returns several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        return {"x": self.head(input), "y": input}


@functools.cache
def of_features() -> fxlrp.Explainer:
    return fxlrp.compile(dense(), debug=True)


@functools.cache
def of_tokens() -> fxlrp.Explainer:
    torch.manual_seed(0)
    return fxlrp.compile(Tokens().eval(), example_inputs=ids())


@functools.cache
def pixels() -> nn.Module:
    torch.manual_seed(0)
    return Pixels().eval()


@functools.cache
def of_pixels() -> fxlrp.Explainer:
    return fxlrp.compile(pixels())


def x() -> Tensor:
    return torch.linspace(-1, 1, 8).reshape(2, 4)


def image() -> Tensor:
    return torch.linspace(-1, 1, 150).reshape(2, 3, 5, 5)


def ids() -> Tensor:
    return torch.tensor([[1, 2, 3], [4, 5, 6]])


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp())


@functools.cache
def recipe() -> Path:
    of_features().save(folder() / "recipe.json")
    return folder() / "recipe.json"

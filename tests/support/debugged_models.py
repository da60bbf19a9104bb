"""Small models for the tests of debugging."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import zoo
from oracles import random, randomize


class Small(nn.Module):
    """A convolution and a dense layer, both with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.head = nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x))
        return self.head(x.flatten(1))


def small() -> Small:
    return randomize(Small().double().eval())


def conv_bn() -> tuple[nn.Module, Tensor]:
    layers = (
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    return zoo.initialise(nn.Sequential(*layers).double()), random(2, 1, 6, 6)

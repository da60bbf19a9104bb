"""What a problem consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["image", "tokens", "graph"]
Pooling = Literal["absolute", "positive"]
Half = Literal["choose", "report"]


@dataclass(frozen=True)
class Samples:
    """Inputs of a network, the first of which is explained, with their classes and what decides each of them."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    masks: Tensor  # for each pixel, token or node of a sample: whether it decides the class

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Samples:
        return Samples(tuple(each[index] for each in self.inputs), self.labels[index], self.masks[index])


@dataclass(frozen=True)
class Problem:
    """A generator of samples, and the networks that are trained on them.

    ``half`` says whether its results serve to choose rules or to report them, ``pooling`` what counts as relevance: its
    absolute value or its positive part, as in the source of the problem.
    """

    name: str
    title: str
    kind: Kind
    half: Half
    pooling: Pooling
    classes: int
    make: Callable[[int, torch.Generator], Samples]
    networks: tuple[str, ...]
    bounds: tuple[float, float] | None = None  # of the values of the input; None for tokens, whose vectors have none
    steps: int = 800  # at most, in training
    good: float = 0.99  # training ends when the network is right so often
    threshold: float = 0.95  # networks that are right less often are not explained
    vocabulary: int = 0


def integers(low: int, high: int, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Integers from ``low`` to ``high - 1``."""
    return torch.randint(low, high, size, generator=generator)


def distinct(choices: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    """In each of ``size`` rows, ``count`` different integers below ``choices``."""
    return torch.rand(size, choices, generator=generator).argsort(1)[:, :count]

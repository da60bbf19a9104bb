"""Places for values in the settings of operations, and short ways to write settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where values of this shape go, which special ones must be among them, and where the operation is defined.

    Args:
        shape: The shape of the values.
        special: Values that must be among them.
        domain: The values for which the operation is defined, a name of ``operation_samples.DOMAINS``.
        contiguous: Whether torch needs the values to be contiguous in memory.
    """

    shape: tuple[int, ...]
    special: tuple[float, ...] = ()
    domain: str = "any"
    contiguous: bool = False


def fixed(*shape: int, scale: float = 0.5) -> Tensor:
    """Numbers of both signs for weights and constants."""
    generator = torch.Generator().manual_seed(sum(size * 7**place for place, size in enumerate(shape)))
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


def V(*shape: int, special: tuple[float, ...] = (), domain: str = "any", contiguous: bool = False) -> Place:
    """A place for values."""
    return Place(shape, special, domain, contiguous)


def of(place: Place, *given: Arguments) -> list[Arguments]:
    """Settings of a call with one operand: without further arguments, and with each of ``given``."""
    return [{"input": place, **arguments} for arguments in ({}, *given)]


def only(place: Any, *given: Arguments) -> list[Arguments]:
    """Settings of a call with one operand that needs further arguments."""
    return of(place, *given)[1:]


def each(name: str, *values: Any) -> list[Arguments]:
    """One argument with each of several values."""
    return [{name: value} for value in values]


def two(first: Any, second: Any, **others: Any) -> Arguments:
    """A call with two operands."""
    return dict(input=first, other=second, **others)


M, CUBE, IMAGE = V(4, 6), V(2, 3, 4), V(2, 4, 6, 6)
BOOLS = torch.arange(24).reshape(4, 6) % 3 == 0
TOKENS = torch.tensor([[0, 3, 1], [2, 2, 6]])
ALONG = torch.tensor([[0, 2, 1, 1, 3, 0], [3, 3, 0, 2, 1, 1]])

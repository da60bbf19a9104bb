"""Shapes of values without the batch, and how a value is given another one."""

from __future__ import annotations

import math
from typing import TypeAlias

from torch import Tensor

BATCH = 2
Shape: TypeAlias = tuple[int, ...]


def fitted(value: Tensor, own: Shape, wanted: Shape) -> Tensor:
    """A value ``(batch, *own)`` as ``(batch, *wanted)``: its first elements, or its elements again and again.

    Nothing is copied unless elements are repeated, so that an in-place change of the result changes the value.
    """
    if own == wanted:
        return value
    size, needed = math.prod(own), math.prod(wanted)
    flat = value.unsqueeze(1) if not own else value if len(own) == 1 else value.flatten(1)
    if needed > size:
        flat = flat.repeat(1, -(-needed // size))
    if needed % size:
        flat = flat[:, :needed]
    if not wanted:
        return flat[:, 0]
    return flat if len(wanted) == 1 else flat.unflatten(1, wanted)


def elements(shape: Shape) -> int:
    """The number of elements of a sample."""
    return math.prod(shape)


def of_whole_batch(value: Tensor, own: Shape, wanted: Shape) -> Tensor:
    """The first elements of a value ``(BATCH, *own)`` as a value ``wanted``, which has no batch."""
    return value if (BATCH, *own) == wanted else value.flatten()[: math.prod(wanted)].reshape(wanted)


def with_batch(value: Tensor, own: Shape) -> Tensor:
    """A value without a batch as one with the batch in front."""
    if own[:1] == (BATCH,):
        return value
    size = math.prod(own)
    if size == 1:
        return value.reshape(1, 1).expand(BATCH, 1)
    flat = value.flatten()
    return (flat[: size - 1] if size % BATCH else flat).reshape(BATCH, size // BATCH)


def batched(own: Shape) -> Shape:
    """The shape of :func:`with_batch` without the batch."""
    return own[1:] if own[:1] == (BATCH,) else (max(1, int(math.prod(own)) // BATCH),)

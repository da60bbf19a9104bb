"""Division and broadcasting, each decided in one place."""

from __future__ import annotations

import torch
from torch import Tensor


def stabilize(z: Tensor, epsilon: float) -> Tensor:
    """``s(z) = z + epsilon * sgn(z)`` with ``sgn(0) = 1``; for ``epsilon = 0`` zeros become ones.

    LRP-0 so reads ``0/0`` as 0. Where contributions cancel to exactly 0, their relevance is lost to it.
    """
    if epsilon == 0:
        return torch.where(z == 0, torch.ones_like(z), z)
    return torch.where(z < 0, z - epsilon, z + epsilon)


def widened(x: Tensor) -> Tensor:
    """``x`` in at least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def stabilize_one_sign(z: Tensor, epsilon: float) -> Tensor:
    """:func:`stabilize` for a sum of terms of one sign: where it is zero all its terms are, and any divisor does.

    A divisor of 1 there keeps half precision from overflowing.
    """
    return torch.where(z == 0, torch.ones_like(z), stabilize(z, epsilon))


def unbroadcast(relevance: Tensor, like: Tensor) -> Tensor:
    """Sum ``relevance`` back to the shape of an operand that was broadcast to it, and undo a promotion of its type."""
    # Shapes of different lengths are compared element by element first: an open size would become another one's rival.
    if relevance.dim() != like.dim() or relevance.shape != like.shape:
        relevance = relevance.sum_to_size(like.shape)
    return as_type_of(relevance, like)


def as_type_of(relevance: Tensor, like: Tensor) -> Tensor:
    """``relevance`` in the type of an operand; that of tokens, which are integers, stays as it is."""
    return relevance.to(like.dtype) if like.is_floating_point() else relevance


def part(operand: Tensor, relevance: Tensor, *, share: float) -> Tensor:
    """``R_a = share * R``, whatever the values."""
    return unbroadcast(relevance if share == 1 else share * relevance, operand)

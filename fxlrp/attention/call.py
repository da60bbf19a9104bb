"""The arguments of attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fxlrp.errors import InputError


@dataclass(frozen=True)
class Call:
    """The arguments of :func:`fxlrp.attention.attention`, with a number as the scale.

    Args:
        query: The queries, already multiplied by ``factor``.
        keys: The transposed keys.
        value: The values.
        mask: The mask.
        scale: The scale.
        is_causal: Whether query ``i`` may look at the keys up to ``i`` only.
        factor: A factor of the queries that is not a number; None if there is none.
    """

    query: Tensor
    keys: Tensor
    value: Tensor
    mask: Tensor | None
    scale: float
    is_causal: bool
    factor: Tensor | None = None

    @classmethod
    def of(
        cls,
        query: Tensor,
        keys: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float | Tensor,
        is_causal: bool,
        hides_finitely: bool,
        shares_heads: bool,
    ) -> Call:
        """Return the call.

        A tensor of one element scales the queries. Queries that look at all keys equally, because a mask hides all of
        them by low numbers, are zero. Heads that share one of keys and values have a dimension, which has size one
        there.

        Raises:
            InputError: An operand is a vector.
        """
        if min(query.dim(), keys.dim(), value.dim()) < 2:
            raise InputError("attention of a vector: compile with example_inputs, so that its dimensions are known")
        if shares_heads:
            heads = keys.size(-3)
            query, keys, value = divided_heads(query, heads), keys.unsqueeze(-3), value.unsqueeze(-3)
            if mask is not None and mask.dim() > 2:
                mask = mask.unsqueeze(-3) if has_one(mask, -3) else divided_heads(mask, heads)
        factor, number = (scale, 1.0) if isinstance(scale, Tensor) else (None, scale)
        sees = None
        if hides_finitely and mask is not None:
            sees = mask.any(-1, keepdim=True)
            mask = mask | ~sees
        elif mask is not None and mask.dtype != torch.bool and mask.shape[-1] != 0:
            mask, sees = _without_low_rows(mask if mask.is_floating_point() else mask.to(query.dtype))
        if sees is not None:
            factor = sees.to(query.dtype) if factor is None else sees * factor
        return cls(query if factor is None else query * factor, keys, value, mask, number, is_causal, factor)

    @property
    def batch(self) -> torch.Size:
        """The sizes of the leading dimensions of the result."""
        sizes: torch.Size = torch.broadcast_shapes(*(each.shape[:-2] for each in (self.query, self.keys, self.value)))
        return sizes


def divided_heads(x: Tensor, groups: int) -> Tensor:
    """Heads in groups: those of queries, of a result, its cotangent or a mask."""
    divided: Tensor = x.unflatten(-3, (groups, -1))
    return divided


def has_fewer_heads(keys: Tensor, query: Tensor) -> bool:
    """Whether keys have fewer heads than queries, as far as the numbers are known."""
    sizes = (keys.size(-3), query.size(-3))
    return not all(isinstance(size, int) for size in sizes) or sizes[0] != sizes[1]


def has_one(x: Tensor, dim: int) -> bool:
    """Whether a dimension, counted from the end, is known to have size one; a missing one counts."""
    size = x.size(dim) if x.dim() >= -dim else 1
    return isinstance(size, int) and size == 1


# A number that hides a key: as a score, or added to it.
LOW = -1e4


def hides_by_rounding(mask: Tensor) -> Tensor:
    """Where a mask adds numbers so low that their sum with a score is rounded to themselves."""
    return (mask < LOW) & (mask > -math.inf) & (mask * torch.finfo(mask.dtype).eps < -1)


def _without_low_rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Raise the rows of a mask that consist of low numbers to zero; return which rows keep the scores.

    A softmax does not depend on a number that is added to a whole row, but the logarithm of the sum of exponentials,
    which the kernels keep, would round off the scores.
    """
    top = mask.amax(-1, keepdim=True)
    is_low = (top < LOW) & (top > -math.inf)
    return mask - top.masked_fill(~is_low, 0.0), ~hides_by_rounding(top)

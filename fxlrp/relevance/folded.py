"""Relevance of the parameters of a linear map and of the BatchNorm that is folded into it.

They are ``W' = W * gamma / sigma`` and ``b' = (b - mu) * gamma / sigma + beta``. Both factors of ``W'``
receive its relevance, and the terms of ``b'`` share its relevance by LRP-0. Without folding they receive the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxlrp.relevance.numerics import as_type_of, stabilize


def weight_of_folded(
    r: Tensor, folded: Tensor, weight: Tensor, scale: Tensor | None, variance: Tensor, **options: object
) -> Tensor:
    """``R_W = R_W'``."""
    return as_type_of(r, weight)


def scale_of_folded_weight(
    r: Tensor,
    folded: Tensor,
    weight: Tensor,
    scale: Tensor,
    variance: Tensor,
    *,
    eps: float,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """``R_gamma = sum R_W'`` over the weights of each output channel."""
    if transposed:
        # (groups, inputs of the group, outputs of the group, ...)
        r = r.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return as_type_of(r.flatten(1).sum(1), scale)


def bias_of_folded(
    r: Tensor,
    folded: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    *,
    eps: float,
    like: Tensor | None = None,
) -> Tensor:
    """``R_b = R_b' * (b * gamma / sigma) / b'``."""
    factor = torch.rsqrt(variance + eps)
    return as_type_of(_share(r, folded, bias * (factor if scale is None else factor * scale)), bias)


def scale_of_folded_bias(
    r: Tensor,
    folded: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    *,
    eps: float,
    like: Tensor | None = None,
) -> Tensor:
    """``R_gamma = R_b' * (b' - beta) / b'``."""
    return as_type_of(r if shift is None else _share(r, folded, folded - shift), scale)


def shift_of_folded(
    r: Tensor,
    folded: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    eps: float,
    like: Tensor | None = None,
) -> Tensor:
    """``R_beta = R_b' * beta / b'``."""
    return as_type_of(_share(r, folded, shift), shift)


def _share(r: Tensor, total: Tensor, part: Tensor) -> Tensor:
    return r * (part / stabilize(total, 0.0))

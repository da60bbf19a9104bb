"""Losses as compositions of operations that torch can differentiate twice, and trace on tensors without values."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction

from fxlrp.errors import InputError


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``torch.nn.functional.multi_margin_loss``, whose kernel has no second derivative."""
    classes = target.unsqueeze(-1)
    margins = F.relu(margin - input.gather(-1, classes) + input)
    losses = (margins if p == 1 else margins.square()).scatter(-1, classes, 0.0)
    if weight is not None:
        losses = losses * weight[target].unsqueeze(-1)
    return _reduced(losses.sum(-1) / input.shape[-1], size_average, reduce, reduction)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``torch.nn.functional.multilabel_margin_loss``, whose kernel has no second derivative.

    The classes of a sample are those before its first -1.
    """
    is_given = (target < 0).cumsum(-1) == 0
    classes = target.masked_fill(~is_given, 0)
    counts = torch.zeros_like(target).scatter_add(-1, classes, is_given.long())
    margins = F.relu(1 - input.gather(-1, classes).unsqueeze(-1) + input.unsqueeze(-2))
    compared = is_given.unsqueeze(-1) & (counts == 0).unsqueeze(-2)
    losses = torch.where(compared, margins, 0.0).sum((-2, -1)) / input.shape[-1]
    return _reduced(losses, size_average, reduce, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """``torch.nn.functional.gaussian_nll_loss``, which looks at the variance in Python.

    Raises:
        InputError: The variance does not fit the input.
        RuntimeError: It has negative elements.
    """
    var = var if isinstance(var, Tensor) else torch.full_like(input, var)
    torch._assert_async(~(var < 0).any(), "gaussian_nll_loss: var has negative elements")
    if var.dim() == input.dim() - 1:
        var = var.unsqueeze(-1)
    if var.dim() != input.dim() or any(own not in (1, size) for own, size in zip(var.shape, input.shape, strict=True)):
        raise InputError(
            f"gaussian_nll_loss: var of shape {tuple(var.shape)} does not fit an input of shape {tuple(input.shape)}"
        )
    # Clamped in value, but not in its derivative.
    least = var + (var.clamp(min=eps) - var).detach()
    losses = 0.5 * (least.log() + (input - target).square() / least)
    return _reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, None, None, reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``torch.nn.functional.binary_cross_entropy``, whose derivative by the target is infinite for a certain input.

    Raises:
        RuntimeError: An input is not between 0 and 1.
    """
    # The value is that of the kernel, which checks the input. An assertion has no rule for torch.vmap.
    value = F.binary_cross_entropy(input.detach(), target.detach(), reduction="none")
    losses = -target * _bounded(torch.log, input, 1.0) - (1 - target) * _bounded(torch.log1p, -input, 0.0)
    losses = value + (losses - losses.detach())
    return _reduced(losses if weight is None else losses * weight, size_average, reduce, reduction)


def _bounded(log: Callable[[Tensor], Tensor], x: Tensor, root: float) -> Tensor:
    """``max(log(x), -100)``, whose derivative is zero where it is bounded, also where ``log(x)`` is infinite.

    Args:
        log: The logarithm.
        x: Where it is taken.
        root: Where it is zero.
    """
    is_bounded = log(x.detach()) < -100
    return log(x.masked_fill(is_bounded, root)).masked_fill(is_bounded, -100.0)


def _reduced(losses: Tensor, size_average: bool | None, reduce: bool | None, reduction: str) -> Tensor:
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce, emit_warning=False)
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()

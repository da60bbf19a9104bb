"""Relevance carried as a quotient: ``R = base * C``, where ``base`` is the value or its activation.

A rule that passes on ``x * (...)`` may omit the product; ``C`` is bounded where ``R / z`` is not, and the next step
divides by a value of the same magnitude as ``base``. The functions write only into their own memory.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxlrp.relevance.allocation import allocates, with_in_place_form
from fxlrp.relevance.numerics import divide_components, stabilize
from fxlrp.relevance.step import Step


@allocates
def rescale(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """``C * z / s(z)``, for relevance ``R = z * C``.

    Half precision rounds nonzero sums to zero; if epsilon is below its resolution, they keep their ``C``.
    """
    rounds_to_zero = z.dtype in (torch.bfloat16, torch.float16) and epsilon < torch.finfo(z.dtype).eps
    if epsilon < _smallest(z):
        return factor.clone() if rounds_to_zero else factor.masked_fill(z == 0, 0.0)
    if rounds_to_zero:
        magnitude = z.abs()
        return magnitude.div_(magnitude + epsilon).masked_fill_(z == 0, 1.0).mul_(factor)
    # |z| / (|z| + epsilon) is 1 - epsilon / (|z| + epsilon), which takes fewer passes over memory.
    return torch.addcdiv(factor, factor, z.abs().add_(epsilon), value=-epsilon)


@allocates
def rescale_positive(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """:func:`rescale` where ``z`` is nowhere negative."""
    if epsilon < _smallest(z):
        return factor.masked_fill(z == 0, 0.0)
    return torch.addcdiv(factor, factor, z + epsilon, value=-epsilon)


@allocates
def share(factor: Tensor, base: Tensor, denominator: Tensor) -> Tensor:
    """``C * base / d``, for relevance ``R = base * C`` and a stabilized denominator."""
    return (base / denominator).mul_(factor)


def stabilize_positive_(z: Tensor, epsilon: float) -> Tensor:
    """:func:`stabilize_positive` in the memory of ``z``."""
    return torch.threshold_(z, 0.0, 1.0).add_(epsilon)


@allocates
@with_in_place_form(stabilize_positive_)
def stabilize_positive(z: Tensor, epsilon: float) -> Tensor:
    """``s(z)`` for a sum of non-negative terms. Where it is zero all terms are, and any divisor is valid.

    Any divisor is also valid where ``z`` is negative, for relevance that is zero there.
    """
    return F.threshold(z, 0.0, 1.0).add_(epsilon)


def _smallest(z: Tensor) -> float:
    """The smallest positive number that every device distinguishes from zero."""
    return torch.finfo(z.dtype).tiny * torch.finfo(z.dtype).eps


def over_value(step: Step, epsilon: float) -> fx.Node:
    """Emit ``R / s(z)`` for the value ``z`` of the step's node."""
    received, z = step.single, step.node
    if step.is_complex(z):
        return step.named("share", divide_components, step.relevance, z, epsilon)
    if received.base is None:
        return step.named("share", operator.truediv, received.factor, step.named("s", stabilize, z, epsilon))
    if received.base is z:
        function = rescale_positive if z in step.facts.non_negative else rescale
        return step.named("share", function, received.factor, z, epsilon)
    if is_rectified(received.base, z):
        return step.named("share", rescale_positive, received.factor, received.base, epsilon)
    return over(step, step.named("s", stabilize, z, epsilon))


def over(step: Step, denominator: fx.Node) -> fx.Node:
    """Emit ``R / d`` for a stabilized denominator."""
    received = step.single
    if received.base is None:
        return step.named("share", operator.truediv, received.factor, denominator)
    return step.named("share", share, received.factor, received.base, denominator)


def is_rectified(base: fx.Node | None, z: fx.Node) -> bool:
    """Whether ``base`` is ``relu(z)``, and so equals ``z`` wherever it is not zero."""
    return base is not None and base.target is torch.relu and base.args == (z,)

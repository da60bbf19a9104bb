"""Relevance carried as a quotient: ``R = base * C``, where ``base`` is the value or its activation.

A rule that passes on ``x * (...)`` may omit the product; ``C`` is bounded where ``R / z`` is not, and the next step
divides by a value of the same magnitude as ``base``. The functions write only into their own memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxlrp.relevance.allocation import allocates, with_in_place_form
from fxlrp.relevance.numerics import counts_as_zero, divide_components, normal_, stabilize
from fxlrp.relevance.step import Step


def rescale_(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """:func:`rescale`, in the memory of ``C``."""
    if counts_as_zero(epsilon, z) or not _is_precise(factor, z):
        return rescale(factor, z, epsilon)
    return factor.addcdiv_(factor, z.abs().add_(epsilon), value=-epsilon)


def rescale_in_two_(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """:func:`rescale`, in the memory of ``C``, with the denominator in that of ``z``."""
    if counts_as_zero(epsilon, z) or not _is_precise(factor, z):
        return rescale(factor, z, epsilon)
    return factor.addcdiv_(factor, z.abs_().add_(epsilon), value=-epsilon)


@allocates
@with_in_place_form(rescale_, in_two=rescale_in_two_)
def rescale(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """``C * z / s(z)``, for relevance ``R = z * C``.

    Half precision rounds nonzero sums to zero; if epsilon is below its resolution, they keep their ``C``.
    """
    rounds_to_zero = z.dtype in (torch.bfloat16, torch.float16) and epsilon < torch.finfo(z.dtype).eps
    if counts_as_zero(epsilon, z):
        return factor.clone() if rounds_to_zero else factor.masked_fill(z == 0, 0.0)
    # |z| / (|z| + epsilon) is 1 - epsilon / (|z| + epsilon), which takes fewer passes over memory, and is 1 where a
    # mask made z infinite.
    rescaled = torch.addcdiv(factor, factor, z.abs().add_(epsilon), value=-epsilon)
    return torch.where(z == 0, factor, rescaled) if rounds_to_zero else rescaled


def rescale_positive_(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """:func:`rescale_positive`, in the memory of ``C`` if the product ``z * C`` cannot overflow."""
    if counts_as_zero(epsilon, z) or not _is_precise(factor, z):
        return rescale_positive(factor, z, epsilon)
    return factor.mul_(z).div_(z + epsilon)


def rescale_positive_in_two_(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """:func:`rescale_positive`, in the memory of ``C``, with the denominator in that of ``z``."""
    if counts_as_zero(epsilon, z) or not _is_precise(factor, z):
        return rescale_positive(factor, z, epsilon)
    return factor.mul_(z).div_(z.add_(epsilon))


@allocates
@with_in_place_form(rescale_positive_, in_two=rescale_positive_in_two_)
def rescale_positive(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """:func:`rescale` where ``z`` is nowhere negative."""
    if counts_as_zero(epsilon, z):
        return factor.masked_fill(z == 0, 0.0)
    return torch.addcdiv(factor, factor, z + epsilon, value=-epsilon)


def share_(factor: Tensor, base: Tensor, denominator: Tensor) -> Tensor:
    """:func:`share`, in the memory of ``C`` if the product ``base * C`` cannot overflow."""
    if not _is_precise(factor, base, denominator):
        return share(factor, base, denominator)
    return factor.mul_(base).div_(denominator)


@allocates
@with_in_place_form(share_)
def share(factor: Tensor, base: Tensor, denominator: Tensor) -> Tensor:
    """``C * base / d``, for relevance ``R = base * C`` and a stabilized denominator."""
    # Not in place: for several questions the factor has more elements than the quotient.
    return base / denominator * factor


def share_of_value_(factor: Tensor, base: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """:func:`share_of_value`, in the memory of ``C``."""
    return share_(factor, base, stabilize(z, epsilon))


def share_of_value_in_two_(factor: Tensor, base: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """:func:`share_of_value`, in the memory of ``C``, with ``s(z)`` in that of ``base``."""
    is_small = counts_as_zero(epsilon, z) or epsilon < torch.finfo(z.dtype).tiny
    if is_small or base.shape != z.shape or not _is_precise(factor, base, z):
        return share_of_value_(factor, base, z, epsilon)
    return factor.mul_(base).div_(base.fill_(epsilon).copysign_(z).add_(z))


@allocates
@with_in_place_form(share_of_value_, in_two=share_of_value_in_two_)
def share_of_value(factor: Tensor, base: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """``C * base / s(z)``, for relevance ``R = base * C``."""
    return share(factor, base, stabilize(z, epsilon))


def divide_(r: Tensor, denominator: Tensor) -> Tensor:
    """:func:`divide`, in the memory of ``R`` if it has the type of the quotient."""
    return r.div_(denominator) if r.dtype == denominator.dtype else r / denominator


@allocates
@with_in_place_form(divide_)
def divide(r: Tensor, denominator: Tensor) -> Tensor:
    """``R / d``, for a stabilized denominator of the shape of the relevance."""
    return r / denominator


def _is_precise(*tensors: Tensor) -> bool:
    """Whether all tensors have the same type, of at least single precision."""
    return tensors[0].dtype in (torch.float32, torch.float64) and len({each.dtype for each in tensors}) == 1


def stabilize_positive_(z: Tensor, epsilon: float) -> Tensor:
    """:func:`stabilize_positive` in the memory of ``z``."""
    stabilized = torch.threshold_(z, 0.0, 1.0).add_(epsilon)
    return stabilized if counts_as_zero(epsilon, z) else normal_(stabilized, epsilon)


@allocates
@with_in_place_form(stabilize_positive_)
def stabilize_positive(z: Tensor, epsilon: float) -> Tensor:
    """``s(z)`` for a sum of non-negative terms. Where it is zero all terms are, and any divisor is valid.

    Any divisor is also valid where ``z`` is negative, for relevance that is zero there.
    """
    stabilized = F.threshold(z, 0.0, 1.0).add_(epsilon)
    return stabilized if counts_as_zero(epsilon, z) else normal_(stabilized, epsilon)


def over_value(step: Step, epsilon: float) -> fx.Node:
    """Emit ``R / s(z)`` for the value ``z`` of the step's node."""
    received, z = step.single, step.node
    if step.is_complex(z):
        return step.named("share", divide_components, step.relevance, z, epsilon)
    if received.base is None:
        return over(step, step.named("s", stabilize, z, epsilon))
    if received.base is z and epsilon == 0 and step.facts.as_coefficients:
        # z C / z, which is C where z is zero, too.
        return received.factor
    if received.base is z:
        function = rescale_positive if z in step.facts.non_negative else rescale
        return step.named("share", function, received.factor, z, epsilon)
    if is_rectified(received.base, z):
        return step.named("share", rescale_positive, received.factor, received.base, epsilon)
    return step.named("share", share_of_value, received.factor, received.base, z, epsilon)


def over(step: Step, denominator: fx.Node) -> fx.Node:
    """Emit ``R / d`` for a stabilized denominator."""
    received = step.single
    if received.base is None:
        return step.named("share", divide, received.factor, denominator)
    return step.named("share", share, received.factor, received.base, denominator)


def is_rectified(base: fx.Node | None, z: fx.Node) -> bool:
    """Whether ``base`` is ``relu(z)``, and so equals ``z`` wherever it is not zero."""
    return base is not None and base.target is torch.relu and base.args == (z,)

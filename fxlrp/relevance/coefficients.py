"""Coefficients: ``C`` of the relevance ``R = value * C``, which is defined where the value is zero, too.

Every rule that multiplies contributions by their operand passes on a coefficient (Jafari et al., 2025). Under LRP-0 it
is the gradient of the network in which norms, activations and gates are constants.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

from fxlrp.operation import Family
from fxlrp.program import Relevance
from fxlrp.relevance.initial_relevance import Seed, Target, initial_gradient, initial_relevance
from fxlrp.relevance.step import Step


def initial_coefficient(
    output: Tensor,
    target: Target = None,
    seed: Seed = None,
    tokens: Sequence[Tensor] = (),
    positions: Tensor | None = None,
) -> Tensor:
    """Return ``C`` of :func:`initial_relevance`: one at the target and zero elsewhere, or the seed over the output."""
    if seed is None:
        return initial_gradient(output, target, None, tokens, positions)
    relevance = initial_relevance(output, target, seed, tokens, positions)
    return torch.where(output == 0, 0.0, relevance / output)


def small_number(x: Tensor, sign: int, *, alike: bool) -> Tensor:
    """A number so near to zero that a function is linear between it and its negative; ``alike`` in the shape of x."""
    return x.new_full(x.shape if alike else (), sign * distance(x))


def distance(x: Tensor) -> float:
    """A number so near to zero that a function is linear between it and its negative."""
    return float(torch.finfo(x.dtype).eps ** (1 / 3))


def slope(x: Tensor, y: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """``y / x`` of an activation ``y = f(x)``; where ``x`` is zero, the mean of the slopes on both sides."""
    at_zero = (above - below) / (2 * distance(x))
    return torch.where(x == 0, at_zero, y / x)


def coefficient(step: Step, operand: fx.Node, relevance: Relevance) -> Relevance | None:
    """The contribution of a step as a multiple of its operand; None if the rule does not pass on multiples."""
    if relevance.base is operand:
        return relevance
    if relevance.base is not step.node or step.operation.family is not Family.ACTIVATION:
        return None
    # The activation passes relevance unchanged: y * C = x * (C * y / x).
    function, others = step.operation.function, {**step.arguments}
    (name,) = (each for each in step.operation.operands if others[each] is operand)
    # Other tensors, such as the slopes of prelu, fit the shape of the operand only.
    alike = any(isinstance(each, fx.Node) and each is not operand for each in others.values())
    sides = []
    for sign in (1, -1):
        args, kwargs = step.operation.call({**others, name: step.call(small_number, operand, sign, alike=alike)})
        sides.append(step.call(function, *args, **kwargs))
    ratio = step.call(slope, operand, step.node, *sides)
    return Relevance(step.call(torch.mul, relevance.factor, ratio), operand)

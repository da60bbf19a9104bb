"""Relevance of elementwise activations: it passes unchanged (Bach et al., 2015). And the modified gradients of ReLU."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from fxlrp.operation import Family, Operation
from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.coefficients import distance, slope
from fxlrp.relevance.derived import ANY
from fxlrp.relevance.held import Frozen, Held
from fxlrp.relevance.proportional import backpropagated
from fxlrp.relevance.step import (
    Choice,
    Contributions,
    Emitter,
    Implementation,
    Receivers,
    RuleTable,
    Step,
    like_receiver,
)
from fxlrp.rules.specs import Backpropagation, DeconvReLU, GuidedReLU, PassThrough, SmoothReLU


def _emit_pass(step: Step) -> Contributions:
    # A quotient also passes unchanged: its base remains the result of the activation.
    return step.to_receivers(lambda *_: step.single)


def _specialize_pass(step: Step) -> Contributions | None:
    """Convert a quotient by ``-x`` or a checked ``x`` to one by ``x``, so that it remains one behind views of ``x``."""
    (x, *_), received = step.operands, step.single
    if received.base is not step.node or not step.facts.quotients:
        return None
    if step.operation.family is Family.CHECK:
        return [step.times(x, received.factor)]
    if step.operation.function is operator.neg:
        return [step.times(x, step.call(operator.neg, received.factor))]
    return None


@allocates
def relu_back(out: Tensor, r: Tensor) -> Tensor:
    """``J^T R`` of a ReLU."""
    return torch.where(out > 0, r, 0.0)


@allocates
def guided_relu(out: Tensor, r: Tensor) -> Tensor:
    """``R_x = R`` where it is positive and the ReLU active; see :class:`fxlrp.rules.GuidedReLU`."""
    return torch.where(out > 0, r.clamp(min=0), 0.0)


@allocates
def deconv_relu(r: Tensor) -> Tensor:
    """``R_x = max(R, 0)``; see :class:`fxlrp.rules.DeconvReLU`."""
    return r.clamp(min=0)


@allocates
def smooth_relu(x: Tensor, r: Tensor, *, beta: float) -> Tensor:
    """``R_x = sigmoid(beta * x) * R``; see :class:`fxlrp.rules.SmoothReLU`."""
    return torch.sigmoid(beta * x) * r


def _relu_transposed(step: Step, u: fx.Node, _: int) -> fx.Node:
    # The result of a ReLU says where it was active, so its operand need not be kept.
    return step.call(relu_back, step.node, u)


def _emit_guided(step: Step) -> Contributions:
    return [step.call(guided_relu, step.node, step.relevance)]


def _emit_deconv(step: Step) -> Contributions:
    return [step.call(deconv_relu, step.relevance)]


def _emit_smooth(step: Step) -> Contributions:
    assert isinstance(step.rule, SmoothReLU)
    return [step.call(smooth_relu, step.operands[0], step.relevance, beta=step.rule.beta)]


def _of_relu(emit: Emitter) -> Implementation:
    """A rule of ReLU; operations that are one for some arguments only pass on their gradient for all others."""

    def emit_relu(step: Step) -> Contributions:
        is_relu = step.operation.tells(step.operation.rectifies, step.arguments)
        return emit(step) if is_relu else ANY[Backpropagation].emit(step)

    def receivers(choice: Choice) -> Receivers:
        operation = choice.vocabulary.operation(choice.node)
        is_relu = operation is not None and operation.tells(operation.rectifies, operation.arguments(choice.node))
        return Receivers(choice.dependent, "" if is_relu else "not a ReLU: its gradient")

    return Implementation(emit_relu, receivers, fits=_may_rectify)


def _may_rectify(operation: Operation) -> bool:
    return operation.rectifies is not None


_PASSES = Implementation(
    _emit_pass, specialize=_specialize_pass, of_parameter=like_receiver(_emit_pass), quotients=True, follows=True
)


def _as_factor(held: Held, moved: Mapping[int, Tensor]) -> Tensor:
    """``v f(x) / x``; where ``x`` is zero, ``f(0)`` and ``v`` times the mean of the slopes on both sides."""
    ((position, v),) = moved.items()
    x = held.operands[position]
    sides = (held.at({position: torch.full_like(x, sign * distance(x))}) for sign in (1, -1))
    return v * slope(x, held.out, *sides) + torch.where(x == 0, held.out, 0.0)


_RATIO = Frozen("the ratio of the result to the operand", _as_factor)

RULES: RuleTable = {
    PassThrough: replace(_PASSES, frozen=_RATIO),
    Backpropagation: {"relu": backpropagated(_relu_transposed)},
    GuidedReLU: _of_relu(_emit_guided),
    DeconvReLU: _of_relu(_emit_deconv),
    SmoothReLU: _of_relu(_emit_smooth),
}
CHECKS: RuleTable = {PassThrough: _PASSES, Backpropagation: _PASSES}

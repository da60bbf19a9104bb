"""Cheaper steps for linear maps, where the facts of the compiler allow them.

If the input is non-negative, the terms with ``x-`` vanish, and with them half of the maps of ZPlus, AlphaBeta and
Gamma. An input of both signs is split into channels ``(x+, x-)``, each with its own weights in one map. If relevance
is zero wherever the output is not positive (before a ReLU), the half of Gamma for negative outputs vanishes, and
``z+ = z + |z-|`` needs no separate map. All pass on quotients ``C`` of ``R_x = x * C``. An emitter
returns None if the facts do not allow it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, fx

from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.linear_maps import (
    Convolution,
    Geometry,
    convolution_transposed,
    dense_transposed,
    geometry_of,
    transposed_convolution_transposed,
)
from fxlrp.relevance.quotients import is_rectified, over, stabilize_positive, stabilize_positive_
from fxlrp.relevance.step import Contributions, Step
from fxlrp.rules.specs import AlphaBeta, Gamma, ZPlus


def positive(weight: Tensor) -> Tensor:
    """``W+``."""
    return weight.clamp(min=0)


def negative(weight: Tensor) -> Tensor:
    """``|W-|``."""
    return weight.neg().clamp_(min=0)


def non_positive(weight: Tensor) -> Tensor:
    """``W-``."""
    return weight.clamp(max=0)


def minus_positive(weight: Tensor) -> Tensor:
    """``-W+``."""
    return weight.clamp(min=0).neg_()


def raise_positive(weight: Tensor, gamma: float) -> Tensor:
    """``W + gamma * W+``."""
    return weight.clamp(min=0).mul_(gamma).add_(weight)


def raise_negative(weight: Tensor, gamma: float) -> Tensor:
    """``W + gamma * W-``."""
    return weight.clamp(max=0).mul_(gamma).add_(weight)


@allocates
def weigh(raising: Tensor, lowering: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * raising - beta * lowering``."""
    return (alpha * raising).sub_(lowering, alpha=beta)


def gamma_parts(factor: Tensor, z: Tensor, z_pos: Tensor, gamma: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """The relevance ``z * C`` of positive and negative outputs, each divided by ``|z| + gamma |z+-| + epsilon``.

    ``|z-| = z+ - z``; for negative outputs both terms have the same sign, so nothing cancels.
    """
    above, below = z.clamp(min=0), z.neg().clamp_(min=0)
    denominator = stabilize_positive_((z_pos + below).mul_(gamma).add_(above).add_(below), epsilon)
    return above.div_(denominator).mul_(factor), below.div_(denominator).mul_(factor)


def split_signs(x: Tensor, channels: int) -> Tensor:
    """``x+`` and ``x-`` as channels of one tensor."""
    return torch.cat((x.clamp(min=0), x.clamp(max=0)), channels)


@allocates
def of_own_sign(factor: Tensor, x: Tensor, channels: int) -> Tensor:
    """Combine quotients by ``x+`` and ``x-``, in the order of :func:`split_signs`, to the quotient by ``x``."""
    above, below = factor.chunk(2, channels)
    return torch.where(x > 0, above, below)


_OfWeight: TypeAlias = Callable[..., Tensor]


class _Map:
    """Emits the maps of one step: forward and transposed, with the weights of its rule."""

    def __init__(self, step: Step, signed: bool | None = None) -> None:
        self.step = step
        self.arguments = step.arguments
        self.weight, self.bias, self.x = (self.arguments[name] for name in ("weight", "bias", "input"))
        self.geometry: tuple[Geometry, ...] = geometry_of(step.operation, self.arguments)
        # Whether positive and negative inputs have separate weights.
        self.signed = self.x not in step.facts.non_negative if signed is None else signed
        # Channels are the last dimension for a dense layer, else the dimension before the spatial ones.
        self._channels = -1 - step.operation.dims
        self._split: fx.Node | None = None

    @property
    def possible(self) -> bool:
        """Whether the facts allow a cheaper step: relevance may be a quotient, and the input can be split if needed."""
        if not self.step.facts.quotients and self.signed:
            return False
        kind = self.geometry[0] if self.geometry else None
        return not self.signed or kind is None or (isinstance(kind, Convolution) and kind.groups == 1)

    @property
    def operand(self) -> fx.Node:
        """The input, split by sign if it has both."""
        if self.signed and self._split is None:
            self._split = self.step.named("signs", split_signs, self.x, self._channels)
        return self._split or self.x

    def weights(self, name: str, of_positive: _OfWeight, of_negative: _OfWeight, *args: float) -> fx.Node:
        """The weights of the rule for positive inputs, concatenated with those for negative inputs if needed."""
        above = self.step.named(name, of_positive, self.weight, *args)
        if not self.signed:
            return above
        below = self.step.named(f"{name}_of_negative", of_negative, self.weight, *args)
        return self.step.named(f"{name}_of_both", torch.cat, (above, below), 1 if self.geometry else -1)

    def biases(self, name: str, function: _OfWeight, bias: fx.Node | None, *args: float) -> fx.Node | None:
        """The bias of the rule; None without a bias."""
        return None if bias is None else self.step.named(name, function, bias, *args)

    def forward(self, name: str, weight: fx.Node, bias: fx.Node | None) -> fx.Node:
        """``f(weight, bias; x)``."""
        changed = {"input": self.operand, "weight": weight, "bias": bias}
        args, kwargs = self.step.operation.call({**self.arguments, **changed})
        return self.step.named(name, self.step.operation.function, *args, **kwargs)

    def transposed(self, r: fx.Node, weight: fx.Node) -> fx.Node:
        """``weight^T(r)``."""
        if not self.geometry:
            return self.step.call(dense_transposed, r, weight)
        function = (
            convolution_transposed if isinstance(self.geometry[0], Convolution) else transposed_convolution_transposed
        )
        return self.step.call(function, r, weight, self.operand, *self.geometry)

    def contribution(self, factor: fx.Node) -> Contributions:
        """The result of the step, ``R_x = x * factor``."""
        if self.signed:
            factor = self.step.call(of_own_sign, factor, self.x, self._channels)
        return [self.step.times(self.x, factor)]


def transposed(step: Step, u: fx.Node, _: int) -> fx.Node:
    """Emit ``W^T(u)``."""
    maps = _Map(step, signed=False)
    return maps.transposed(u, maps.weight)


def without_bias(step: Step) -> fx.Node | None:
    """Emit ``f(W, 0; x)``; None without a bias."""
    maps = _Map(step, signed=False)
    return None if maps.bias is None else maps.forward("without_bias", maps.weight, None)


def zplus(step: Step) -> Contributions | None:
    """``C = W+^T(R / s(z+))`` with ``z+ = f(W+, b+; x)``."""
    assert isinstance(step.rule, ZPlus)
    maps = _Map(step)
    return _raising(maps, step.rule) if maps.possible else None


def _raising(maps: _Map, rule: ZPlus | AlphaBeta) -> Contributions:
    step, bias = maps.step, maps.bias if rule.bias else None
    weight = maps.weights("weight_pos", positive, non_positive)
    z_pos = maps.forward("pos", weight, maps.biases("bias_pos", positive, bias))
    r = over(step, step.named("s", stabilize_positive, z_pos, rule.stabilizer))
    return maps.contribution(maps.transposed(r, weight))


def alpha_beta(step: Step) -> Contributions | None:
    """``C = alpha W+^T(R / s(z+)) - beta |W-|^T(R / s(|z-|))``."""
    rule = step.rule
    assert isinstance(rule, AlphaBeta)
    maps = _Map(step)
    if not maps.possible:
        return None
    if rule.beta == 0:
        return _raising(maps, rule)
    bias = maps.bias if rule.bias else None
    weight_pos = maps.weights("weight_pos", positive, non_positive)
    weight_neg = maps.weights("weight_neg", negative, minus_positive)
    z_neg = maps.forward("neg", weight_neg, maps.biases("bias_neg", negative, bias))
    if step.facts.supported and bias is maps.bias:
        z_pos = step.named("pos", operator.add, _output(step), z_neg)
    else:
        z_pos = maps.forward("pos", weight_pos, maps.biases("bias_pos", positive, bias))
    above, below = (over(step, step.named("s", stabilize_positive, z, rule.stabilizer)) for z in (z_pos, z_neg))
    raising, lowering = maps.transposed(above, weight_pos), maps.transposed(below, weight_neg)
    return maps.contribution(step.call(weigh, raising, lowering, rule.alpha, rule.beta))


def gamma(step: Step) -> Contributions | None:
    """``C = (W + gamma W+)^T r`` for positive outputs; ``+ (W + gamma W-)^T r`` for negative ones."""
    rule, received = step.rule, step.single
    assert isinstance(rule, Gamma)
    maps = _Map(step)
    if not maps.possible or (maps.bias is not None and not rule.bias):
        return None
    if step.facts.supported:
        raised = maps.weights("raised", raise_positive, raise_negative, rule.gamma)
        z = maps.forward("raised", raised, maps.biases("bias_raised", raise_positive, maps.bias, rule.gamma))
        r = over(step, step.named("s", stabilize_positive, z, rule.stabilizer))
        return maps.contribution(maps.transposed(r, raised))
    if received.base is not step.node:
        return None
    weight_pos = maps.weights("weight_pos", positive, non_positive)
    z_pos = maps.forward("pos", weight_pos, maps.biases("bias_pos", positive, maps.bias))
    parts = step.named("shares", gamma_parts, received.factor, step.node, z_pos, rule.gamma, rule.stabilizer)
    above, below = (step.named("share", operator.getitem, parts, index) for index in (0, 1))
    from_above = maps.transposed(above, maps.weights("raised", raise_positive, raise_negative, rule.gamma))
    from_below = maps.transposed(below, maps.weights("lowered", raise_negative, raise_positive, rule.gamma))
    return maps.contribution(step.call(operator.add, from_above, from_below))


def _output(step: Step) -> fx.Node:
    """The node's value where it is positive; its ReLU if available, so that the value itself can be freed."""
    base = step.single.base
    return base if base is not None and is_rectified(base, step.node) else step.node

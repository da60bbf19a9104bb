"""Cheaper steps for linear maps, where the facts and decisions of the compiler allow them.

If the input is non-negative, the terms with ``x-`` vanish, and with them half of the maps of ZPlus, AlphaBeta and
Gamma. The step passes on a quotient ``C`` of ``R_x = x * C``.

If the input has both signs, ``(w x)+ = (w x + |w x|) / 2`` turns the four maps of Gamma into the layer's own and one
more, the sum of magnitudes ``a = f(|W|, |b|; |x|)``. In ZPlus and AlphaBeta ``z + a`` could cancel, so ``x+`` and
``x-`` have their own maps. The step passes on ``R_x``, which is the cheaper form of a sum of two products.

If relevance is zero wherever the output is not positive, the half of Gamma for negative outputs vanishes, and
``z+ = z + |z-|`` needs no separate map. An emitter returns None if no cheaper step is allowed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, fx

from fxlrp.relevance.allocation import allocates, with_in_place_form
from fxlrp.relevance.linear_maps import (
    Convolution,
    Geometry,
    convolution_transposed,
    dense_transposed,
    forward,
    geometry_of,
    transposed_convolution_transposed,
)
from fxlrp.relevance.linear_maps import transposed as transposed_map
from fxlrp.relevance.quotients import is_rectified, over, stabilize_positive
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


def magnitude(weight: Tensor, share: float) -> Tensor:
    """``share * |W|``."""
    return weight.abs().mul_(share)


@allocates
def weigh(raising: Tensor, lowering: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * raising - beta * lowering``."""
    return (alpha * raising).sub_(lowering, alpha=beta)


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """:func:`add_product`, in the memory of ``total`` if it has the type of the sum."""
    return total.addcmul_(a, b) if total.dtype == a.dtype == b.dtype else add_product(total, a, b)


@allocates
@with_in_place_form(add_product_)
def add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``total + a * b``."""
    return torch.addcmul(total, a, b)


def sum_of_products_(first: Tensor, x: Tensor, second: Tensor, y: Tensor) -> Tensor:
    """:func:`sum_of_products`, in the memory of ``first`` if it has the type of the sum."""
    if len({each.dtype for each in (first, x, second, y)}) > 1:
        return sum_of_products(first, x, second, y)
    return first.mul_(x).addcmul_(second, y)


@allocates
@with_in_place_form(sum_of_products_)
def sum_of_products(first: Tensor, x: Tensor, second: Tensor, y: Tensor) -> Tensor:
    """``first * x + second * y``."""
    return torch.addcmul(first * x, second, y)


_Pair: TypeAlias = tuple[Tensor, Tensor]


@allocates
def forward_of_signs(x: _Pair, weights: _Pair, bias: Tensor | None, geometry: Geometry = None) -> Tensor:
    """The sum of the maps of ``x+`` and ``x-``, each with its own weights."""
    channels = _joined(weights[0], geometry)
    if channels is not None:
        return forward(torch.cat(x, channels), torch.cat(weights, 1), bias, geometry)
    return forward(x[0], weights[0], bias, geometry).add_(forward(x[1], weights[1], None, geometry))


@allocates
def relevance_of_signs(r: Tensor, x: _Pair, weights: _Pair, geometry: Geometry = None) -> Tensor:
    """``x+ * V^T(r) + x- * W^T(r)``, for the weights ``V`` of ``x+`` and ``W`` of ``x-``."""
    channels = _joined(weights[0], geometry)
    if channels is None:
        of_above, of_below = (transposed_map(r, weight, x[0], geometry) for weight in weights)
        return of_above.mul_(x[0]).add_(of_below.mul_(x[1]))
    sizes = list(x[0].shape)
    sizes[channels] *= 2
    of_both = transposed_map(r, torch.cat(weights, 1), x[0].new_empty(()).expand(sizes), geometry)
    of_above, of_below = of_both.chunk(2, channels)
    return torch.addcmul(of_above * x[0], of_below, x[1])


def _joined(weight: Tensor, geometry: Geometry) -> int | None:
    """The dimension of the channels, if both maps are better computed as one with twice the channels.

    That saves a pass over the outputs, and costs one over the inputs.
    """
    is_ungrouped = geometry is None or (isinstance(geometry, Convolution) and geometry.groups == 1)
    if not is_ungrouped or weight.dim() == 1 or weight.shape[0] <= weight.shape[1]:
        return None
    return 1 - weight.dim()


_OfWeight: TypeAlias = Callable[..., Tensor]


class _Map:
    """Emits the maps of one step, forward and transposed, with the weights of its rule.

    An input of both signs has two parts, ``x+`` and ``x-``, each with its own weights.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.arguments = step.arguments
        self.weight, self.bias, self.x = (self.arguments[name] for name in ("weight", "bias", "input"))
        self.geometry: tuple[Geometry, ...] = geometry_of(step.operation, self.arguments)
        self.signed = self.x not in step.facts.non_negative

    @property
    def possible(self) -> bool:
        """Whether a cheaper step is allowed: something is known about the input, or the form of relevance is free."""
        return self.step.facts.quotients or not self.signed

    @cached_property
    def parts(self) -> tuple[fx.Node, ...]:
        """The input, or its positive and its negative part."""
        if not self.signed:
            return (self.x,)
        return (self.step.named("above", positive, self.x), self.step.named("below", non_positive, self.x))

    def weights(self, name: str, *functions: _OfWeight) -> tuple[fx.Node, ...]:
        """The weights of the rule for each part of the input."""
        names = (name, f"{name}_of_negative")
        return tuple(
            self.step.named(each, function, self.weight)
            for each, function, _ in zip(names, functions, self.parts, strict=False)
        )

    def biases(self, name: str, function: _OfWeight, bias: fx.Node | None, *args: float) -> fx.Node | None:
        """The bias of the rule; None without a bias."""
        return None if bias is None else self.step.named(name, function, bias, *args)

    def forward(self, name: str, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> fx.Node:
        """``f(weight, bias; x)``."""
        args, kwargs = self.step.operation.call({**self.arguments, "input": x, "weight": weight, "bias": bias})
        return self.step.named(name, self.step.operation.function, *args, **kwargs)

    def total(self, name: str, weights: tuple[fx.Node, ...], bias: fx.Node | None) -> fx.Node:
        """The sum of the maps of the parts."""
        if self.signed:
            return self.step.named(name, forward_of_signs, self.parts, weights, bias, *self.geometry)
        return self.forward(name, self.x, weights[0], bias)

    def transposed(self, r: fx.Node, weight: fx.Node) -> fx.Node:
        """``weight^T(r)``."""
        if not self.geometry:
            return self.step.call(dense_transposed, r, weight)
        function = (
            convolution_transposed if isinstance(self.geometry[0], Convolution) else transposed_convolution_transposed
        )
        return self.step.call(function, r, weight, self.x, *self.geometry)


def transposed(step: Step, u: fx.Node, _: int) -> fx.Node:
    """Emit ``W^T(u)``."""
    maps = _Map(step)
    return maps.transposed(u, maps.weight)


def without_bias(step: Step) -> fx.Node | None:
    """Emit ``f(W, 0; x)``; None without a bias."""
    maps = _Map(step)
    return None if maps.bias is None else maps.forward("without_bias", maps.x, maps.weight)


def zplus(step: Step) -> Contributions | None:
    """``C = W+^T(R / s(z+))`` with ``z+ = f(W+, b+; x)``."""
    assert isinstance(step.rule, ZPlus)
    maps = _Map(step)
    return _raising(maps, step.rule) if maps.possible else None


def _raising(maps: _Map, rule: ZPlus | AlphaBeta) -> Contributions:
    step, bias = maps.step, maps.bias if rule.bias else None
    weights = maps.weights("weight_pos", positive, non_positive)
    z_pos = maps.total("pos", weights, maps.biases("bias_pos", positive, bias))
    r = over(step, step.named("s", stabilize_positive, z_pos, rule.stabilizer))
    if maps.signed:
        return [step.call(relevance_of_signs, r, maps.parts, weights, *maps.geometry)]
    return [step.times(maps.x, maps.transposed(r, weights[0]))]


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
    weights_pos = maps.weights("weight_pos", positive, non_positive)
    weights_neg = maps.weights("weight_neg", negative, minus_positive)
    z_neg = maps.total("neg", weights_neg, maps.biases("bias_neg", negative, bias))
    if step.facts.supported and bias is maps.bias:
        z_pos = step.named("pos", operator.add, _output(step), z_neg)
    else:
        z_pos = maps.total("pos", weights_pos, maps.biases("bias_pos", positive, bias))
    above, below = (over(step, step.named("s", stabilize_positive, z, rule.stabilizer)) for z in (z_pos, z_neg))
    factors = [
        step.call(weigh, maps.transposed(above, raising), maps.transposed(below, lowering), rule.alpha, rule.beta)
        for raising, lowering in zip(weights_pos, weights_neg, strict=True)
    ]
    if maps.signed:
        return [step.call(sum_of_products, factors[0], maps.parts[0], factors[1], maps.parts[1])]
    return [step.times(maps.x, *factors)]


def gamma(step: Step) -> Contributions | None:
    """``C = (W + gamma W+)^T r`` for positive outputs; with ``a`` for outputs and inputs of both signs."""
    rule = step.rule
    assert isinstance(rule, Gamma)
    maps = _Map(step)
    if not maps.possible or (maps.bias is not None and not rule.bias):
        return None
    if maps.signed or not step.facts.supported:
        # w x + gamma (w x)+ is w x + share |w x| for a share of gamma / (2 + gamma), times 1 + gamma / 2.
        return _by_magnitude(maps, rule.gamma / (2 + rule.gamma), rule.stabilizer / (1 + rule.gamma / 2))
    raised = step.named("raised", raise_positive, maps.weight, rule.gamma)
    bias = maps.biases("bias_raised", raise_positive, maps.bias, rule.gamma)
    z = maps.forward("raised", maps.x, raised, bias)
    r = over(step, step.named("s", stabilize_positive, z, rule.stabilizer))
    return [step.times(maps.x, maps.transposed(r, raised))]


def _by_magnitude(maps: _Map, share: float, epsilon: float) -> Contributions:
    """``R_x = x * W^T r + |x| * (share |W|)^T |r|``, where ``|r|`` is ``r`` with the sign of the relevance.

    The contributions of positive outputs are ``w x + share |w x|``, those of negative ones ``w x - share |w x|``. Their
    sum is ``z + a`` or ``z - a`` with ``a = f(share |W|, share |b|; |x|)``, of which nothing cancels.
    """
    step, x = maps.step, maps.x
    size = step.named("size", torch.abs, x) if maps.signed else x
    weight = step.named("magnitude", magnitude, maps.weight, share)
    a = maps.forward("of_magnitude", size, weight, maps.biases("bias_magnitude", magnitude, maps.bias, share))
    if step.facts.supported:
        total = step.named("total", operator.add, a, _output(step))
        r = of_size = over(step, step.named("s", stabilize_positive, total, epsilon))
    else:
        sign = step.named("sign", torch.sign, step.node)
        total = step.named("total", add_product, a, sign, step.node)
        divided = over(step, step.named("s", stabilize_positive, total, epsilon))
        r = step.named("signed", operator.mul, divided, sign)
        # Nothing flows where z is zero, so the sign of zero is zero here, too.
        of_size = step.named("unsigned", operator.mul, sign, r)
    of_signs, of_sizes = maps.transposed(r, maps.weight), maps.transposed(of_size, weight)
    if maps.signed:
        return [step.call(sum_of_products, of_signs, x, of_sizes, size)]
    return [step.times(x, step.call(operator.add, of_signs, of_sizes))]


def _output(step: Step) -> fx.Node:
    """The node's value where it is positive; its ReLU if available, so that the value itself can be freed."""
    base = step.single.base
    return base if base is not None and is_rectified(base, step.node) else step.node

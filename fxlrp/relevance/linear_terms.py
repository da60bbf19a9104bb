"""The terms of a linear map, as nodes, and the relevance of the input, the weight and the bias that follow from them.

A rule divides relevance in proportion to products of parts of the input and of the weight: ``R_x = sum x_part *
W_part^T(r)``, ``R_W = sum W_part * (r x_part^T)`` and ``R_b = sum b_part * r``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, fx

from fxlrp.relevance.allocation import allocates, with_in_place_form
from fxlrp.relevance.linear_maps import (
    Convolution,
    Geometry,
    bias_gradient,
    convolution_transposed,
    dense_transposed,
    forward,
    geometry_of,
    transposed,
    transposed_convolution_transposed,
    weight_gradient,
)
from fxlrp.relevance.numerics import as_type_of
from fxlrp.relevance.step import Contribution, Contributions, Step
from fxlrp.rules.specs import EPSILONS


def positive(weight: Tensor) -> Tensor:
    """``W+``."""
    return weight.clamp(min=0)


def non_positive(weight: Tensor) -> Tensor:
    """``W-``."""
    return weight.clamp(max=0)


@allocates
def weigh(first: Tensor, second: Tensor, scale: float, other_scale: float) -> Tensor:
    """``scale * first + other_scale * second``."""
    return (scale * first).add_(second, alpha=other_scale)


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
        of_above, of_below = (transposed(r, weight, x[0], geometry) for weight in weights)
        return of_above.mul_(x[0]).add_(of_below.mul_(x[1]))
    sizes = list(x[0].shape)
    sizes[channels] *= 2
    of_both = transposed(r, torch.cat(weights, 1), x[0].new_empty(()).expand(sizes), geometry)
    of_above, of_below = of_both.chunk(2, channels)
    return torch.addcmul(of_above * x[0], of_below, x[1])


def _joined(weight: Tensor, geometry: Geometry) -> int | None:
    """The dimension of the channels, if both maps are better computed as one with twice the channels.

    That saves a pass over the outputs, and costs one over the inputs.
    """
    is_ungrouped = geometry is None or (isinstance(geometry, Convolution) and geometry.groups == 1)
    # In half precision on CPUs some convolutions of more than three channels are wrong (torch 2.13, windows of 16
    # pixels side by side), so those that the model does not have are not made.
    is_narrow = weight.device.type == "cpu" and weight.element_size() < 4
    if not is_ungrouped or is_narrow or weight.dim() == 1 or weight.shape[0] <= weight.shape[1]:
        return None
    return 1 - weight.dim()


@allocates
def weight_relevance(part: Tensor, x: Tensor, r: Tensor, geometry: Geometry = None, *, scale: float = 1.0) -> Tensor:
    """``scale * W_part * (r x_part^T)``, summed over samples and positions."""
    relevance = as_type_of(part * weight_gradient(x, r, part, geometry), part)
    return relevance if scale == 1 else scale * relevance


@allocates
def bias_relevance(part: Tensor, r: Tensor, geometry: Geometry = None, *, scale: float = 1.0) -> Tensor:
    """``scale * b_part * r``, summed over samples and positions."""
    relevance = as_type_of(part * bias_gradient(r, part, geometry), part)
    return relevance if scale == 1 else scale * relevance


_OfWeight: TypeAlias = Callable[..., Tensor]


class Maps:
    """Emits the maps of one step, forward and transposed, with the weights of its rule.

    An input of both signs has two parts, ``x+`` and ``x-``, each with its own weights.
    """

    def __init__(self, step: Step) -> None:
        """Read the arguments of the step's node."""
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


@dataclass(frozen=True)
class Term:
    """``scale * x_part * W_part^T(r)``, and the same for the bias, whose input is 1.

    Args:
        part: The part of the weight, or of the bias.
        r: The quotient of relevance.
        scale: The weight of the term in the rule.
    """

    part: fx.Node
    r: fx.Node
    scale: float = 1.0


@dataclass(frozen=True)
class Terms:
    """The terms of a rule.

    Args:
        maps: The maps of the step.
        inputs: Each part of the input, with the terms of the weight that it is multiplied by.
        biases: The terms of the bias.
        share_quotient: Whether both parts of the input have one term, with the same quotient.
    """

    maps: Maps
    inputs: Sequence[tuple[fx.Node, Sequence[Term]]]
    biases: Sequence[Term]
    share_quotient: bool = False


TermsOf: TypeAlias = Callable[[Step], "Terms | None"]


def input_of_terms(step: Step, terms_of: TermsOf) -> Contributions | None:
    """Emit the relevance of the input; None if the step has no such terms."""
    terms = step.once(terms_of)
    if terms is None:
        return None
    if len(terms.inputs) == 1:
        ((x, weights),) = terms.inputs
        return [step.times(x, _factor(terms.maps, weights))]
    (above, weights_above), (below, weights_below) = terms.inputs
    if terms.share_quotient:
        parts, r = (weights_above[0].part, weights_below[0].part), weights_above[0].r
        return [step.call(relevance_of_signs, r, (above, below), parts, *terms.maps.geometry)]
    factors = [_factor(terms.maps, weights) for weights in (weights_above, weights_below)]
    return [step.call(sum_of_products, factors[0], above, factors[1], below)]


def _factor(maps: Maps, weights: Sequence[Term]) -> fx.Node:
    """``sum scale * W_part^T(r)``, of one term or two."""
    factors = [maps.transposed(term.r, term.part) for term in weights]
    if len(factors) == 1:
        return factors[0]
    if all(term.scale == 1 for term in weights):
        return maps.step.call(operator.add, *factors)
    return maps.step.call(weigh, *factors, *(term.scale for term in weights))


def argument_of_terms(step: Step, terms: Terms, name: str) -> Contribution:
    """Emit the relevance of the weight or the bias; None if no term has a part of it."""
    if name == "weight":
        shares = [
            step.call(weight_relevance, term.part, x, term.r, *terms.maps.geometry, **_scale(term))
            for x, weights in terms.inputs
            for term in weights
        ]
    else:
        shares = [
            step.call(bias_relevance, term.part, term.r, *terms.maps.geometry, **_scale(term)) for term in terms.biases
        ]
    return _sum(step, shares)


def _scale(term: Term) -> dict[str, float]:
    return {} if term.scale == 1 else {"scale": term.scale}


def _sum(step: Step, shares: Sequence[fx.Node]) -> fx.Node | None:
    total: fx.Node | None = None
    for share in shares:
        total = share if total is None else step.call(operator.add, total, share)
    return total


def epsilon_argument(step: Step, u: fx.Node, name: str) -> Contribution:
    """Emit the relevance of the weight or the bias under LRP-epsilon: one term, ``x * W^T(u)``."""
    maps = Maps(step)
    absorbs = isinstance(step.rule, EPSILONS) and step.rule.bias
    biases = [Term(maps.bias, u)] if maps.bias is not None and absorbs else []
    return argument_of_terms(step, Terms(maps, [(maps.x, [Term(maps.weight, u)])], biases), name)

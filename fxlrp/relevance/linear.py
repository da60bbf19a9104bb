"""Relevance of linear maps: dense layers, convolutions and transposed convolutions of one to three dimensions.

Notation as in the papers: ``z = f(W, b; x)``, ``W+``/``x+`` positive and ``W-``/``x-`` negative parts, and
``W^T(.)`` the transposed map. Every rule here is for inputs of both signs. It is stated by its terms, from which the
relevance of the input, of the weight and of the bias follow. ``linear_specialized.py`` has cheaper steps for inputs
about which more is known.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from fxlrp.errors import RuleError
from fxlrp.program import Relevance
from fxlrp.relevance import linear_specialized
from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.linear_maps import Geometry, bias_gradient, forward, geometry_of, transposed, weight_gradient
from fxlrp.relevance.linear_terms import TermsOf, argument_of_terms, epsilon_argument, input_of_terms
from fxlrp.relevance.numerics import as_type_of, held, stabilize, stabilize_one_sign
from fxlrp.relevance.proportional import LinearMap, backpropagated, epsilons, proportional
from fxlrp.relevance.step import Absorber, Argument, Contribution, Contributions, Implementation, RuleTable, Step
from fxlrp.rules.bounds import TensorBound
from fxlrp.rules.specs import (
    AlphaBeta,
    Backpropagation,
    Flat,
    Gamma,
    Gradient,
    PassThrough,
    WSquare,
    ZBox,
    ZPlus,
)

# A number, one number for each channel, or a tensor that broadcasts to the input.
Bound: TypeAlias = "float | tuple[float, ...] | Tensor"
# A part of the input, and the parts of the weight that it is multiplied by, each with its quotient ``r``.
Term: TypeAlias = "tuple[Tensor, Sequence[tuple[Tensor, Tensor]]]"


def relevance_by_terms(
    of: str, terms: Sequence[Term], biases: Sequence[tuple[Tensor | None, Tensor]], geometry: Geometry
) -> Tensor:
    """The relevance of an argument of a linear map, from the terms of its rule.

    ``R_x = sum x_part * W_part^T(r)``, ``R_W = sum W_part * (r x_part^T)`` and ``R_b = sum b_part * r``; the last two
    are summed over samples and positions.

    Args:
        of: The argument: "input", "weight" or "bias"; or "coefficient" for that of the input.
        terms: The parts of the input and of the weight.
        biases: The parts of the bias, each with its quotient.
        geometry: The geometry of the map.
    """
    if of == "coefficient":
        return _by_sign(terms, geometry)
    if of == "input":
        return _summed([(x, _sum([transposed(r, w, x, geometry) for w, r in weights])) for x, weights in terms])
    if of == "weight":
        return _summed([(w, weight_gradient(x, r, w, geometry)) for x, weights in terms for w, r in weights])
    return _summed([(b, bias_gradient(r, b, geometry)) for b, r in biases if b is not None])


def _by_sign(terms: Sequence[Term], geometry: Geometry) -> Tensor:
    """``C`` of ``R_x = x * C``, for terms of ``x+`` and ``x-``; where ``x`` is zero, the mean of both."""
    (x_pos, _), (x_neg, _) = terms
    above, below = (_sum([transposed(r, w, x, geometry) for w, r in weights]) for x, weights in terms)
    return torch.where(x_pos > 0, above, torch.where(x_neg < 0, below, (above + below) / 2))


def _summed(products: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return as_type_of(_sum([part * factor for part, factor in products]), products[0][0])


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    return functools.reduce(operator.add, tensors)


def _positive(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clamp(min=0)


def _negative(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clamp(max=0)


@allocates
def linear_zplus(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    r: Tensor,
    geometry: Geometry = None,
    *,
    stabilizer: float,
    of: str = "input",
) -> Tensor:
    """``R_x = x+ * W+^T r + x- * W-^T r``; see :class:`fxlrp.rules.ZPlus`."""
    x_pos, x_neg = x.clamp(min=0), x.clamp(max=0)
    w_pos, w_neg, b_pos = weight.clamp(min=0), weight.clamp(max=0), _positive(bias)
    z = forward(x_pos, w_pos, b_pos, geometry) + forward(x_neg, w_neg, None, geometry)
    r = r / stabilize_one_sign(z, stabilizer)
    return relevance_by_terms(of, [(x_pos, [(w_pos, r)]), (x_neg, [(w_neg, r)])], [(b_pos, r)], geometry)


@allocates
def linear_alpha_beta(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    r: Tensor,
    geometry: Geometry = None,
    *,
    alpha: float,
    beta: float,
    stabilizer: float,
    of: str = "input",
) -> Tensor:
    """``R_x = alpha (x+ * W+^T r+ + x- * W-^T r+) - beta (x+ * W-^T r- + x- * W+^T r-)``.

    See :class:`fxlrp.rules.AlphaBeta`.
    """
    x_pos, x_neg = x.clamp(min=0), x.clamp(max=0)
    w_pos, w_neg, b_pos, b_neg = weight.clamp(min=0), weight.clamp(max=0), _positive(bias), _negative(bias)
    z_pos = forward(x_pos, w_pos, b_pos, geometry) + forward(x_neg, w_neg, None, geometry)
    z_neg = forward(x_pos, w_neg, b_neg, geometry) + forward(x_neg, w_pos, None, geometry)
    r_pos = alpha * (r / stabilize_one_sign(z_pos, stabilizer))
    r_neg = -beta * (r / stabilize_one_sign(z_neg, stabilizer))
    terms = [(x_pos, [(w_pos, r_pos), (w_neg, r_neg)]), (x_neg, [(w_neg, r_pos), (w_pos, r_neg)])]
    return relevance_by_terms(of, terms, [(b_pos, r_pos), (b_neg, r_neg)], geometry)


@allocates
def linear_gamma(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor | None,
    r: Tensor,
    geometry: Geometry = None,
    *,
    gamma: float,
    stabilizer: float,
    of: str = "input",
) -> Tensor:
    """The generalized gamma rule, one half for each sign of ``out``; see :class:`fxlrp.rules.Gamma`."""
    z = forward(x, weight, None, geometry) if out is None else out
    x_pos, x_neg = x.clamp(min=0), x.clamp(max=0)
    w_pos, w_neg = weight + gamma * weight.clamp(min=0), weight + gamma * weight.clamp(max=0)
    b_pos = None if bias is None else bias + gamma * bias.clamp(min=0)
    b_neg = None if bias is None else bias + gamma * bias.clamp(max=0)
    z_pos = forward(x_pos, w_pos, b_pos, geometry) + forward(x_neg, w_neg, None, geometry)
    z_neg = forward(x_pos, w_neg, b_neg, geometry) + forward(x_neg, w_pos, None, geometry)
    r_pos = torch.where(z > 0, r / stabilize(z_pos, stabilizer), 0.0)
    r_neg = torch.where(z < 0, r / stabilize(z_neg, stabilizer), 0.0)
    terms = [(x_pos, [(w_pos, r_pos), (w_neg, r_neg)]), (x_neg, [(w_neg, r_pos), (w_pos, r_neg)])]
    return relevance_by_terms(of, terms, [(b_pos, r_pos), (b_neg, r_neg)], geometry)


def linear_zbox(
    x: Tensor,
    weight: Tensor,
    r: Tensor,
    geometry: Geometry = None,
    *,
    low: Bound,
    high: Bound,
    stabilizer: float,
    of: str = "input",
) -> Tensor:
    """``R_x = x * W^T r - low * W+^T r - high * W-^T r``; see :class:`fxlrp.rules.ZBox`."""
    w_pos, w_neg = weight.clamp(min=0), weight.clamp(max=0)
    lowest, highest = bound(low, x, weight), bound(high, x, weight)
    z = (
        forward(x, weight, None, geometry)
        - forward(lowest, w_pos, None, geometry)
        - forward(highest, w_neg, None, geometry)
    )
    r = r / stabilize(z, stabilizer)
    return relevance_by_terms(of, [(x, [(weight, r)]), (lowest, [(w_pos, -r)]), (highest, [(w_neg, -r)])], [], geometry)


def bound(value: Bound, x: Tensor, weight: Tensor) -> Tensor:
    """The bound of every input, broadcast."""
    if isinstance(value, int | float):
        return torch.full_like(x, held(value, x.dtype))
    if isinstance(value, Tensor):
        fitting = fit(value, x)
        if fitting is None:
            raise RuleError(
                f"ZBox has bounds of shape {tuple(value.shape)}, which do not broadcast to the input of the first "
                f"layer, of shape {tuple(x.shape)}"
            )
        return fitting.to(dtype=x.dtype, device=x.device).expand_as(x)
    # Channels are the last dimension for a dense layer, else the dimension before the spatial ones.
    trailing = (1,) * (weight.dim() - 2)
    channels = x.shape[-1 - len(trailing)]
    if len(value) != channels:
        raise RuleError(f"ZBox has bounds for {len(value)} channels, but the input of the first layer has {channels}")
    return torch.tensor(value, dtype=x.dtype, device=x.device).reshape(-1, *trailing).expand_as(x)


def fit(value: Tensor, x: Tensor) -> Tensor | None:
    """A bound without more dimensions than ``x`` has; None if it does not broadcast to ``x``."""
    while value.dim() > x.dim() and value.shape[0] == 1:
        value = value[0]
    if value.dim() > x.dim():
        return None
    sizes = zip(value.shape, x.shape[x.dim() - value.dim() :], strict=True)
    return value if all(own in (1, size) for own, size in sizes) else None


def linear_wsquare(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    r: Tensor,
    geometry: Geometry = None,
    *,
    stabilizer: float,
    of: str = "input",
) -> Tensor:
    """``R_x = (W^2)^T(R / s(f(W^2, b^2; 1)))``; see :class:`fxlrp.rules.WSquare`."""
    ones, w_square, b_square = torch.ones_like(x), weight**2, None if bias is None else bias**2
    r = r / stabilize(forward(ones, w_square, b_square, geometry), stabilizer)
    return relevance_by_terms(of, [(ones, [(w_square, r)])], [(b_square, r)], geometry)


def linear_flat(
    x: Tensor, weight: Tensor, r: Tensor, geometry: Geometry = None, *, stabilizer: float, of: str = "input"
) -> Tensor:
    """``R_x = 1^T(R / s(f(1, 0; 1)))``; see :class:`fxlrp.rules.Flat`."""
    ones, w_ones = torch.ones_like(x), torch.ones_like(weight)
    r = r / stabilize(forward(ones, w_ones, None, geometry), stabilizer)
    return relevance_by_terms(of, [(ones, [(w_ones, r)])], [], geometry)


def unchanged(x: Tensor, r: Tensor) -> Tensor:
    """``R_x = R``, for an input of the size of the output; see :class:`fxlrp.rules.PassThrough`."""
    if r.shape != x.shape:
        raise RuleError(
            f"PassThrough needs an input and an output of equal size, but the layer has an input of shape "
            f"{tuple(x.shape)} and an output of shape {tuple(r.shape)}"
        )
    return as_type_of(r, x)


def _step(function: Callable[..., Tensor], *values: str, terms: TermsOf | None = None) -> Implementation:
    """A rule that ``function`` computes from the named values, the geometry, and the parameters of the rule.

    Args:
        function: Computes the relevance of an argument.
        values: The names of the values that it reads.
        terms: Emits the terms of a cheaper step, or returns None if none is allowed.
    """

    def emit(step: Step) -> Contributions:
        if terms is not None and step.facts.as_coefficients:
            factor = _call(step, function, values, of="coefficient")
            assert factor is not None
            return [Relevance(factor, step.operands[0])]
        return [_call(step, function, values)]

    def specialize(step: Step) -> Contributions | None:
        # A cheaper step has one coefficient at zero, of the side that the facts leave, which depends on the facts.
        return None if terms is None or step.facts.as_coefficients else input_of_terms(step, terms)

    def of_parameter(step: Step, argument: Argument) -> Contribution:
        if isinstance(argument, int):
            return (specialize(step) or emit(step))[argument]
        cheaper = None if terms is None else step.once(terms)
        if cheaper is not None:
            return argument_of_terms(step, cheaper, argument)
        return _call(step, function, values, of=argument) if argument in values else None

    if terms is None:
        return Implementation(emit, of_parameter=of_parameter)
    return Implementation(emit, specialize=specialize, of_parameter=of_parameter, quotients=True, vanishes=True)


def _call(step: Step, function: Callable[..., Tensor], values: Sequence[str], **of: str) -> fx.Node | None:
    """Emit the relevance of an argument, by default of the input; None for a bias that the rule leaves out."""
    known: dict[str, Any] = {**step.arguments, "out": step.node, "r": step.relevance}
    parameters = dict(step.once(_parameters))
    geometry = geometry_of(step.operation, step.arguments)
    in_sign = parameters.pop("bias_in_sign", False)
    if not parameters.pop("bias", True) and known["bias"] is not None:
        known.update(bias=None, out=step.node if in_sign else None)
        if of.get("of") == "bias":
            return None
    return step.call(function, *(known[value] for value in values), *geometry, **parameters, **of)


def _parameters(step: Step) -> Mapping[str, Any]:
    """The parameters of the rule; tensors as constants of the program."""
    return {
        name: step.constant(name, value.tensor()) if isinstance(value, TensorBound) else value
        for name, value in vars(step.rule).items()
    }


RULES: RuleTable = {
    **epsilons(
        LinearMap(
            linear_specialized.transposed,
            of_argument=epsilon_argument,
            without_bias=linear_specialized.without_bias,
            absorber=Absorber.BIAS,
        )
    ),
    ZPlus: _step(linear_zplus, "input", "weight", "bias", "r", terms=linear_specialized.zplus),
    AlphaBeta: _step(linear_alpha_beta, "input", "weight", "bias", "r", terms=linear_specialized.alpha_beta),
    Gamma: _step(linear_gamma, "input", "weight", "bias", "out", "r", terms=linear_specialized.gamma),
    ZBox: _step(linear_zbox, "input", "weight", "r"),
    WSquare: _step(linear_wsquare, "input", "weight", "bias", "r"),
    Flat: _step(linear_flat, "input", "weight", "r"),
    Backpropagation: backpropagated(linear_specialized.transposed),
    Gradient: proportional(LinearMap(linear_specialized.transposed, stabilizer=0.0)),
    PassThrough: Implementation(lambda step: [step.call(unchanged, step.operands[0], step.relevance)]),
}

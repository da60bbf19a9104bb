"""Relevance of linear maps: dense layers, convolutions and transposed convolutions of one to three dimensions.

Notation as in the papers: ``z = f(W, b; x)``, ``W+``/``x+`` positive and ``W-``/``x-`` negative parts, and
``W^T(.)`` the transposed map. Every rule here is for inputs of both signs, in terms of :func:`forward` and
:func:`transposed`. ``linear_specialized.py`` has cheaper steps for inputs about which more is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fxlrp.errors import RuleError
from fxlrp.relevance import linear_specialized
from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.linear_maps import Geometry, forward, geometry_of, transposed
from fxlrp.relevance.numerics import as_type_of, stabilize, stabilize_one_sign
from fxlrp.relevance.proportional import LinearMap, backpropagated, proportional
from fxlrp.relevance.step import Absorber, Contributions, Implementation, RuleTable, Step
from fxlrp.rules.bounds import TensorBound
from fxlrp.rules.specs import (
    AlphaBeta,
    Backpropagation,
    Epsilon,
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


def _positive(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clamp(min=0)


def _negative(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clamp(max=0)


@allocates
def linear_zplus(
    x: Tensor, weight: Tensor, bias: Tensor | None, r: Tensor, geometry: Geometry = None, *, stabilizer: float
) -> Tensor:
    """``R_x = x+ * W+^T r + x- * W-^T r``; see :class:`fxlrp.rules.ZPlus`."""
    x_pos, x_neg = x.clamp(min=0), x.clamp(max=0)
    w_pos, w_neg = weight.clamp(min=0), weight.clamp(max=0)
    z = forward(x_pos, w_pos, _positive(bias), geometry) + forward(x_neg, w_neg, None, geometry)
    r = r / stabilize_one_sign(z, stabilizer)
    return x_pos * transposed(r, w_pos, x, geometry) + x_neg * transposed(r, w_neg, x, geometry)


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
) -> Tensor:
    """``R_x = alpha (x+ * W+^T r+ + x- * W-^T r+) - beta (x+ * W-^T r- + x- * W+^T r-)``.

    See :class:`fxlrp.rules.AlphaBeta`.
    """
    x_pos, x_neg = x.clamp(min=0), x.clamp(max=0)
    w_pos, w_neg = weight.clamp(min=0), weight.clamp(max=0)
    z_pos = forward(x_pos, w_pos, _positive(bias), geometry) + forward(x_neg, w_neg, None, geometry)
    z_neg = forward(x_pos, w_neg, _negative(bias), geometry) + forward(x_neg, w_pos, None, geometry)
    r_pos, r_neg = r / stabilize_one_sign(z_pos, stabilizer), r / stabilize_one_sign(z_neg, stabilizer)
    raising = x_pos * transposed(r_pos, w_pos, x, geometry) + x_neg * transposed(r_pos, w_neg, x, geometry)
    lowering = x_pos * transposed(r_neg, w_neg, x, geometry) + x_neg * transposed(r_neg, w_pos, x, geometry)
    return alpha * raising - beta * lowering


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
    return x_pos * (transposed(r_pos, w_pos, x, geometry) + transposed(r_neg, w_neg, x, geometry)) + x_neg * (
        transposed(r_pos, w_neg, x, geometry) + transposed(r_neg, w_pos, x, geometry)
    )


def linear_zbox(
    x: Tensor,
    weight: Tensor,
    r: Tensor,
    geometry: Geometry = None,
    *,
    low: Bound,
    high: Bound,
    stabilizer: float,
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
    return (
        x * transposed(r, weight, x, geometry)
        - lowest * transposed(r, w_pos, x, geometry)
        - highest * transposed(r, w_neg, x, geometry)
    )


def bound(value: Bound, x: Tensor, weight: Tensor) -> Tensor:
    """The bound of every input, broadcast."""
    if isinstance(value, int | float):
        return torch.full_like(x, value)
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
    x: Tensor, weight: Tensor, bias: Tensor | None, r: Tensor, geometry: Geometry = None, *, stabilizer: float
) -> Tensor:
    """``R_x = (W^2)^T(R / s(f(W^2, b^2; 1)))``; see :class:`fxlrp.rules.WSquare`."""
    square = weight**2
    z = forward(torch.ones_like(x), square, None if bias is None else bias**2, geometry)
    return as_type_of(transposed(r / stabilize(z, stabilizer), square, x, geometry), x)


def linear_flat(x: Tensor, weight: Tensor, r: Tensor, geometry: Geometry = None, *, stabilizer: float) -> Tensor:
    """``R_x = 1^T(R / s(f(1, 0; 1)))``; see :class:`fxlrp.rules.Flat`."""
    ones = torch.ones_like(weight)
    z = forward(torch.ones_like(x), ones, None, geometry)
    return as_type_of(transposed(r / stabilize(z, stabilizer), ones, x, geometry), x)


def unchanged(x: Tensor, r: Tensor) -> Tensor:
    """``R_x = R``, for an input of the size of the output; see :class:`fxlrp.rules.PassThrough`."""
    if r.shape != x.shape:
        raise RuleError(
            f"PassThrough needs an input and an output of equal size, but the layer has an input of shape "
            f"{tuple(x.shape)} and an output of shape {tuple(r.shape)}"
        )
    return as_type_of(r, x)


def _step(
    function: Callable[..., Tensor], *values: str, specialize: Callable[[Step], Contributions | None] | None = None
) -> Implementation:
    """A rule that ``function`` computes from the named values, the geometry, and the parameters of the rule."""

    def emit(step: Step) -> Contributions:
        known: dict[str, Any] = {**step.arguments, "out": step.node, "r": step.relevance}
        parameters = {
            name: step.constant(name, value.tensor()) if isinstance(value, TensorBound) else value
            for name, value in vars(step.rule).items()
        }
        geometry = geometry_of(step.operation, step.arguments)
        in_sign = parameters.pop("bias_in_sign", False)
        if not parameters.pop("bias", True) and known["bias"] is not None:
            known.update(bias=None, out=step.node if in_sign else None)
        return [step.call(function, *(known[value] for value in values), *geometry, **parameters)]

    if specialize is None:
        return Implementation(emit)
    return Implementation(emit, specialize=specialize, quotients=True, vanishes=True)


RULES: RuleTable = {
    Epsilon: proportional(
        LinearMap(linear_specialized.transposed, without_bias=linear_specialized.without_bias, absorber=Absorber.BIAS)
    ),
    ZPlus: _step(linear_zplus, "input", "weight", "bias", "r", specialize=linear_specialized.zplus),
    AlphaBeta: _step(linear_alpha_beta, "input", "weight", "bias", "r", specialize=linear_specialized.alpha_beta),
    Gamma: _step(linear_gamma, "input", "weight", "bias", "out", "r", specialize=linear_specialized.gamma),
    ZBox: _step(linear_zbox, "input", "weight", "r"),
    WSquare: _step(linear_wsquare, "input", "weight", "bias", "r"),
    Flat: _step(linear_flat, "input", "weight", "r"),
    Backpropagation: backpropagated(linear_specialized.transposed),
    Gradient: proportional(LinearMap(linear_specialized.transposed, stabilizer=0.0)),
    PassThrough: Implementation(lambda step: [step.call(unchanged, step.operands[0], step.relevance)]),
}

"""Relevance of linear maps: dense layers, convolutions and transposed convolutions of one to three dimensions.

Notation as in the papers: ``z = f(W, b; x)``, ``W+``/``x+`` positive and ``W-``/``x-`` negative parts, and
``W^T(.)`` the transposed map. Every rule is written once, over :func:`forward` and :func:`transposed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fxlrp.errors import RuleError
from fxlrp.relevance.numerics import stabilize, stabilize_one_sign
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.relevance.windows import ntuple
from fxlrp.rules.specs import AlphaBeta, Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus


class Convolution(NamedTuple):
    """The geometry of a convolution; its number of dimensions is the weight's."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int


class TransposedConvolution(NamedTuple):
    """The geometry of a transposed convolution."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    dilation: tuple[int, ...]


Geometry = Convolution | TransposedConvolution | None

_CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {
    3: F.conv_transpose1d,
    4: F.conv_transpose2d,
    5: F.conv_transpose3d,
}


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """``f(W, b; x)``; without a geometry the dense map ``x W^T + b``."""
    if geometry is None:
        return F.linear(x, weight, bias)
    convolution = _CONVOLUTIONS if isinstance(geometry, Convolution) else _TRANSPOSED
    return convolution[weight.dim()](x, weight, bias, *geometry)


def transposed(r: Tensor, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """``W^T(r)``, in the shape of ``x``; of ``x`` only the shape is read."""
    if geometry is None:
        return r @ weight if weight.dim() == 2 else r.unsqueeze(-1) * weight
    if x.dim() < weight.dim():
        return transposed(r.unsqueeze(0), weight, x.unsqueeze(0), geometry).squeeze(0)
    if isinstance(geometry, TransposedConvolution):
        convolution = _CONVOLUTIONS[weight.dim()]
        longer = convolution(r, weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
        # An output padding of a whole stride or more, which dilation allows, makes room for one input more.
        return _crop(longer, x)
    before, uneven = _split_padding(weight, geometry)
    sizes = [size + extra for size, extra in zip(x.shape[2:], uneven, strict=True)]
    like = x if not any(uneven) else x.new_empty(1).expand(*x.shape[:2], *sizes)
    dims = weight.dim() - 2
    result: Tensor = torch.ops.aten.convolution_backward.default(
        r,
        like,
        weight,
        None,
        ntuple(geometry.stride, dims),
        before,
        ntuple(geometry.dilation, dims),
        False,
        (0,) * dims,
        geometry.groups,
        (True, False, False),
    )[0]
    return _crop(result, x) if any(uneven) else result


def _crop(longer: Tensor, x: Tensor) -> Tensor:
    for dim in range(2, x.dim()):
        longer = longer.narrow(dim, 0, x.shape[dim])
    return longer


def _split_padding(weight: Tensor, geometry: Convolution) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The padding on both sides of the input, and how much more there is behind it: ``"same"`` may be uneven."""
    dims = weight.dim() - 2
    if geometry.padding == "valid":
        return (0,) * dims, (0,) * dims
    if geometry.padding != "same":
        return ntuple(geometry.padding, dims), (0,) * dims
    total = [d * (k - 1) for d, k in zip(ntuple(geometry.dilation, dims), weight.shape[2:], strict=True)]
    return tuple(t // 2 for t in total), tuple(t % 2 for t in total)


def _positive(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clamp(min=0)


def _negative(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clamp(max=0)


def linear_epsilon(
    x: Tensor,
    weight: Tensor,
    out: Tensor | None,
    r: Tensor,
    geometry: Geometry = None,
    *,
    epsilon: float,
) -> Tensor:
    """``R_x = x * W^T(R / s(z))``; without ``out``, ``z`` leaves out the bias; see :class:`fxlrp.rules.Epsilon`."""
    z = forward(x, weight, None, geometry) if out is None else out
    return x * transposed(r / stabilize(z, epsilon), weight, x, geometry)


def linear_zplus(
    x: Tensor, weight: Tensor, bias: Tensor | None, r: Tensor, geometry: Geometry = None, *, stabilizer: float
) -> Tensor:
    """``R_x = x+ * W+^T r + x- * W-^T r``; see :class:`fxlrp.rules.ZPlus`."""
    x_pos, x_neg = x.clamp(min=0), x.clamp(max=0)
    w_pos, w_neg = weight.clamp(min=0), weight.clamp(max=0)
    z = forward(x_pos, w_pos, _positive(bias), geometry) + forward(x_neg, w_neg, None, geometry)
    r = r / stabilize_one_sign(z, stabilizer)
    return x_pos * transposed(r, w_pos, x, geometry) + x_neg * transposed(r, w_neg, x, geometry)


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
    """The generalised gamma rule, one half for outputs of each sign; see :class:`fxlrp.rules.Gamma`."""
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
    low: float | tuple[float, ...],
    high: float | tuple[float, ...],
    stabilizer: float,
) -> Tensor:
    """``R_x = x * W^T r - low * W+^T r - high * W-^T r``; see :class:`fxlrp.rules.ZBox`."""
    w_pos, w_neg = weight.clamp(min=0), weight.clamp(max=0)
    lowest, highest = _bound(low, x, weight), _bound(high, x, weight)
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


def _bound(value: float | tuple[float, ...], x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(value, int | float):
        return torch.full_like(x, value)
    # Channels are the last dimension of a dense layer's input, else the one before the spatial ones.
    trailing = (1,) * (weight.dim() - 2)
    channels = x.shape[-1 - len(trailing)]
    if len(value) != channels:
        raise RuleError(f"ZBox has bounds for {len(value)} channels, the input of the first layer has {channels}")
    return torch.tensor(value, dtype=x.dtype, device=x.device).reshape(-1, *trailing).expand_as(x)


def linear_wsquare(
    x: Tensor, weight: Tensor, bias: Tensor | None, r: Tensor, geometry: Geometry = None, *, stabilizer: float
) -> Tensor:
    """``R_x = (W^2)^T(R / s(f(W^2, b^2; 1)))``; see :class:`fxlrp.rules.WSquare`."""
    square = weight**2
    z = forward(torch.ones_like(x), square, None if bias is None else bias**2, geometry)
    return transposed(r / stabilize(z, stabilizer), square, x, geometry)


def linear_flat(x: Tensor, weight: Tensor, r: Tensor, geometry: Geometry = None, *, stabilizer: float) -> Tensor:
    """``R_x = 1^T(R / s(f(1, 0; 1)))``; see :class:`fxlrp.rules.Flat`."""
    ones = torch.ones_like(weight)
    z = forward(torch.ones_like(x), ones, None, geometry)
    return transposed(r / stabilize(z, stabilizer), ones, x, geometry)


def _geometry(step: Step) -> tuple[Geometry, ...]:
    """The geometry as a trailing argument; a dense map has none."""
    if step.operation.name == "linear":
        return ()
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value for name, value in step.arguments.items()
    }
    kind = TransposedConvolution if "transpose" in step.operation.name else Convolution
    return (kind(**{name: arguments[name] for name in kind._fields}),)


def _step(function: Callable[..., Tensor], *values: str) -> Implementation:
    """A rule computed by ``function`` of the named values, the geometry, and the rule's own parameters."""

    def emit(step: Step) -> Contributions:
        known: dict[str, Any] = {**step.arguments, "out": step.node, "r": step.relevance}
        parameters = dict(vars(step.rule))
        if not parameters.pop("bias", True) and known["bias"] is not None:
            known.update(bias=None, out=None)
        return [step.call(function, *(known[value] for value in values), *_geometry(step), **parameters)]

    return Implementation(emit)


RULES: RuleTable = {
    Epsilon: _step(linear_epsilon, "input", "weight", "out", "r"),
    ZPlus: _step(linear_zplus, "input", "weight", "bias", "r"),
    AlphaBeta: _step(linear_alpha_beta, "input", "weight", "bias", "r"),
    Gamma: _step(linear_gamma, "input", "weight", "bias", "out", "r"),
    ZBox: _step(linear_zbox, "input", "weight", "r"),
    WSquare: _step(linear_wsquare, "input", "weight", "bias", "r"),
    Flat: _step(linear_flat, "input", "weight", "r"),
}

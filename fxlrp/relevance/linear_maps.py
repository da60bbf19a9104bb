"""Linear maps and their transposes: dense layers, convolutions, transposed convolutions in one to three dimensions.

``z = f(W, b; x)`` is linear in ``x``, in ``W`` and in ``b``, and has a transposed map for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fxlrp.operation import Operation
from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.stacked_convolution import are_stacked, stacked_transposed
from fxlrp.relevance.windows import ntuple


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
    """``W^T(r)``, in the shape of ``x``; only the shape of ``x`` is read."""
    if geometry is None:
        return dense_transposed(r, weight)
    if isinstance(geometry, TransposedConvolution):
        return transposed_convolution_transposed(r, weight, x, geometry)
    return convolution_transposed(r, weight, x, geometry)


@allocates
def dense_transposed(r: Tensor, weight: Tensor) -> Tensor:
    """``W^T(r)`` of a dense layer."""
    return r @ weight if weight.dim() == 2 else r.unsqueeze(-1) * weight


@allocates
def transposed_convolution_transposed(r: Tensor, weight: Tensor, x: Tensor, geometry: TransposedConvolution) -> Tensor:
    """``W^T(r)`` of a transposed convolution: a convolution."""
    if x.dim() < weight.dim():
        return transposed_convolution_transposed(r.unsqueeze(0), weight, x.unsqueeze(0), geometry).squeeze(0)
    convolution = _CONVOLUTIONS[weight.dim()]
    longer = convolution(r, weight, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    # Dilation allows an output padding of a whole stride or more, which makes room for one more input.
    return _crop(longer, x)


@allocates
def convolution_transposed(r: Tensor, weight: Tensor, x: Tensor, geometry: Convolution) -> Tensor:
    """``W^T(r)`` of a convolution."""
    if x.dim() < weight.dim():
        return convolution_transposed(r.unsqueeze(0), weight, x.unsqueeze(0), geometry).squeeze(0)
    if geometry.padding == "same":
        return _same_convolution_transposed(r, weight, x, geometry)
    padding = (0,) * (weight.dim() - 2) if geometry.padding == "valid" else geometry.padding
    output_padding, of_input = (0,) * len(padding), (True, False, False)
    given = (geometry.stride, padding, geometry.dilation, False, output_padding, geometry.groups, of_input)
    # Under autocast relevance is of another type than the weight, and this function of ATen is not cast.
    x, weight = x.to(r.dtype), weight.to(r.dtype)
    if are_stacked(r, weight):
        return stacked_transposed(r, weight, x, given)
    result: Tensor = torch.ops.aten.convolution_backward.default(r, x, weight, None, *given)[0]
    return result


def _same_convolution_transposed(r: Tensor, weight: Tensor, x: Tensor, geometry: Convolution) -> Tensor:
    """Uneven padding ``"same"`` is wider after the input than before it."""
    total = [d * (k - 1) for d, k in zip(geometry.dilation, weight.shape[2:], strict=True)]
    explicit = geometry._replace(padding=tuple(t // 2 for t in total))
    if not any(t % 2 for t in total):
        return convolution_transposed(r, weight, x, explicit)
    sizes = [size + t % 2 for size, t in zip(x.shape[2:], total, strict=True)]
    return _crop(convolution_transposed(r, weight, x.new_empty(1).expand(*x.shape[:2], *sizes), explicit), x)


@allocates
def weight_gradient(x: Tensor, r: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """``sum r x^T`` over samples and positions, in the shape of ``weight``; only the shape of ``weight`` is read."""
    x = x.to(r.dtype)
    if geometry is None:
        return _dense_weight_gradient(x, r, weight)
    if x.dim() < weight.dim():
        return weight_gradient(x.unsqueeze(0), r.unsqueeze(0), weight, geometry)
    if isinstance(geometry, Convolution) and geometry.padding == "same":
        x, geometry = _padded(x, weight, geometry)
    dims = weight.dim() - 2
    result: Tensor = torch.ops.aten.convolution_backward.default(
        r,
        x,
        weight,
        None,
        geometry.stride,
        (0,) * dims if geometry.padding == "valid" else geometry.padding,
        geometry.dilation,
        isinstance(geometry, TransposedConvolution),
        geometry.output_padding if isinstance(geometry, TransposedConvolution) else (0,) * dims,
        geometry.groups,
        (False, True, False),
    )[1]
    return result


def _dense_weight_gradient(x: Tensor, r: Tensor, weight: Tensor) -> Tensor:
    vectors = x.reshape(-1, x.shape[-1])
    if weight.dim() == 1:
        return r.reshape(-1) @ vectors
    return r.reshape(-1, r.shape[-1]).T @ vectors


def _padded(x: Tensor, weight: Tensor, geometry: Convolution) -> tuple[Tensor, Convolution]:
    """The input and the geometry of the same convolution without padding ``"same"``, which may be uneven."""
    total = [d * (k - 1) for d, k in zip(geometry.dilation, weight.shape[2:], strict=True)]
    behind = [each for t in reversed(total) for each in (0, t % 2)]
    return F.pad(x, behind) if any(behind) else x, geometry._replace(padding=tuple(t // 2 for t in total))


def bias_gradient(r: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
    """``sum r`` over samples and positions, in the shape of ``bias``; only the shape of ``bias`` is read."""
    if geometry is None:
        return r.sum_to_size(bias.shape)
    channels = r.dim() - 1 - len(geometry.stride)
    return r.sum([dim for dim in range(r.dim()) if dim != channels])


def _crop(longer: Tensor, x: Tensor) -> Tensor:
    for dim in range(2, x.dim()):
        longer = longer.narrow(dim, 0, x.shape[dim])
    return longer


def geometry_of(operation: Operation, arguments: Mapping[str, Any]) -> tuple[Geometry, ...]:
    """The geometry of a canonical call as a trailing argument, a number for each dimension; empty for a dense map."""
    if operation.dims == 0:
        return ()
    kind: type[Convolution | TransposedConvolution] = TransposedConvolution if operation.transposes else Convolution
    whole: dict[str, Any] = {
        name: arguments[name]
        if name == "groups" or isinstance(arguments[name], str)
        else ntuple(arguments[name], operation.dims)
        for name in kind._fields
    }
    return (kind(**whole),)

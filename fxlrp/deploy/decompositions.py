"""Decompositions of operators that other runtimes do not support.

Most are ATen's backward kernels, which relevance steps call as transposed maps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._decomp import decomposition_table

from fxlrp.relevance.windows import ntuple

aten = torch.ops.aten


def convolution_backward(
    r: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    """The transposed map of a convolution, a transposed convolution; that of a transposed one, a convolution.

    Calls that also request gradients of weights are unchanged.
    """
    if tuple(output_mask) != (True, False, False):
        return NotImplemented
    sizes, none = x.shape[2:], [0] * (weight.dim() - 2)
    if transposed:
        back = aten.convolution.default(r, weight, None, stride, padding, dilation, False, none, groups)
        return _cut(back, none, sizes), None, None
    beyond = [
        size + 2 * pad - dilate * (kernel - 1) - 1 - (out - 1) * step
        for size, pad, dilate, kernel, out, step in zip(
            sizes, padding, dilation, weight.shape[2:], r.shape[2:], stride, strict=True
        )
    ]
    if all(isinstance(amount, int) for amount in beyond):
        back = aten.convolution.default(r, weight, None, stride, padding, dilation, True, beyond, groups)
        return back, None, None
    # For a dynamic size the remainder after the last window is unknown: allow for the largest.
    back = aten.convolution.default(r, weight, None, stride, none, dilation, True, none, groups)
    room = [amount for step in reversed(stride) for amount in (0, step - 1)]
    return _cut(F.pad(back, room), padding, sizes), None, None


def _cut(x: Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """The part of an image with these starts and sizes."""
    for dim, (start, size) in enumerate(zip(starts, sizes, strict=True), start=2):
        if isinstance(size, int):
            x = x.narrow(dim, start, size)
        else:
            # torch.export cannot prove for strides that a slice lies inside.
            x = x.index_select(dim, torch.arange(size, device=x.device) + start)
    return x


def avg_pool_backward(
    r: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """The transposed map of average pooling: every element of a window receives an equal share."""
    dims = len(kernel_size)
    steps, sizes = stride or kernel_size, x.shape[-dims:]
    # How far the last windows reach past the end of the input; negative where they do not reach it.
    behind = [
        (out - 1) * step + kernel - pad - size
        for out, step, kernel, pad, size in zip(r.shape[-dims:], steps, kernel_size, padding, sizes, strict=True)
    ]
    convolution = (steps, [0] * dims, [1] * dims)
    ones = x.new_ones((1, 1, *kernel_size))
    if divisor_override is None:
        counted = F.pad(x.new_ones((1, 1, *sizes)), _pads(padding, padding), value=float(count_include_pad))
        rest = [amount - pad for amount, pad in zip(behind, padding, strict=True)]
        counted = F.pad(counted, _pads([0] * dims, rest))
        count: Any = aten.convolution.default(counted, ones, None, *convolution, False, [0] * dims, 1)
    else:
        count = divisor_override
    share = r.reshape(-1, 1, *r.shape[-dims:]) / count
    back = aten.convolution.default(share, ones, None, *convolution, True, [0] * dims, 1)
    return F.pad(back, _pads([-pad for pad in padding], [-amount for amount in behind])).reshape(x.shape)


def _pads(before: Sequence[int], behind: Sequence[int]) -> list[int]:
    """The padding of the last dimensions in the form of ``F.pad``."""
    return [amount for pair in zip(reversed(before), reversed(behind), strict=True) for amount in pair]


def adaptive_avg_pool(x: Tensor, output_size: Any, *, dims: int) -> Tensor:
    """Adaptive average pooling as a product with one matrix for each axis."""
    for axis, count in zip(range(-dims, 0), ntuple(output_size, dims), strict=True):
        if count is not None:
            x = _mapped(x, axis, _adaptive_windows(x, axis, count))
    return x


def adaptive_avg_pool_backward(r: Tensor, x: Tensor, *, dims: int) -> Tensor:
    """The transposed map of adaptive average pooling, with the matrices transposed."""
    for axis in range(-dims, 0):
        r = _mapped(r, axis, _adaptive_windows(x, axis, r.shape[axis]).T)
    return r


def _mapped(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """What a matrix, ``(count, size)``, makes of an axis."""
    x = x.movedim(axis, -1)
    if all(isinstance(size, int) for size in (*x.shape[1:], *matrix.shape)):
        return (x @ matrix.T).movedim(-1, axis)
    # A product of matrices, or of elements that are not contiguous, asks whether a dynamic size divides the other one.
    if isinstance(x.shape[-1], int) and x.shape[-1] == 1:  # known without a guard
        return (x * matrix.flatten()).movedim(-1, axis)
    return (x.contiguous().unsqueeze(-2) * matrix.contiguous()).sum(-1).movedim(-1, axis)


def _adaptive_windows(x: Tensor, axis: int, count: int) -> Tensor:
    """The matrix, ``(count, size)``, by which adaptive average pooling maps an axis to ``count`` windows."""
    size = x.shape[axis]
    window, position = torch.arange(count, device=x.device), torch.arange(size, device=x.device)
    start, end = window * size // count, ((window + 1) * size + count - 1) // count
    inside = (position >= start[:, None]) & (position < end[:, None])
    return inside.to(x.dtype) / (end - start)[:, None].to(x.dtype)


def max_pool_backward(r: Tensor, x: Tensor, *arguments: Any, dims: int) -> Tensor:
    """The transposed map of max pooling: to the largest elements, whose indices are the last argument."""
    winners = arguments[-1].flatten(-dims)
    return torch.zeros_like(x).flatten(-dims).scatter_add(-1, winners, r.flatten(-dims)).reshape(x.shape)


def upsampling_backward(
    r: Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    *arguments: Any,
    forward: Callable[..., Tensor],
    dims: int,
    aligns: bool,
) -> Tensor:
    """The transposed map of upsampling, which maps each axis by a matrix: what it makes of the identity.

    Args:
        r: The relevance.
        output_size: The sizes behind it.
        input_size: The shape before it.
        arguments: Whether corners are aligned, where the mode has this, and a factor or None for each axis.
        forward: The operator.
        dims: The number of axes.
        aligns: Whether the mode has aligned corners.
    """
    aligned, factors = arguments[:aligns], (*arguments[aligns:], *[None] * dims)
    others = [1] * (dims - 1)
    for axis in range(dims):
        size, count, factor = input_size[axis - dims], output_size[axis], factors[axis]
        position = torch.arange(size, device=r.device)
        identity = (position[:, None] == position).to(r.dtype)
        # Along the last axis, whichever it is: the kernels of smooth modes are wrong where the last one is 1.
        row = identity.reshape(1, size, *others, size)
        matrix = forward(row, [*others, count], *aligned, *[None] * (dims - 1), factor).reshape(size, count)
        r = (r.movedim(axis - dims, -1) @ matrix.T).movedim(-1, axis - dims)
    return r


def copysign(x: Tensor, sign: Tensor) -> Tensor:
    """``|x|`` with the sign of another tensor."""
    return torch.where(sign < 0, -x.abs(), x.abs())


def copysign_(x: Tensor, sign: Tensor) -> Tensor:
    """:func:`copysign` in the memory of ``x``."""
    return x.copy_(copysign(x, sign))


# Runtimes decompose these by the sizes of the example, even where sizes are dynamic.
ADAPTIVE: Mapping[Any, Callable[..., Any]] = {
    operator: functools.partial(adaptive_avg_pool, dims=dims)
    for dims, operators in {
        1: (torch.adaptive_avg_pool1d, aten.adaptive_avg_pool1d.default),
        2: (F.adaptive_avg_pool2d, torch._C._nn.adaptive_avg_pool2d, aten.adaptive_avg_pool2d.default),
        3: (F.adaptive_avg_pool3d, torch._C._nn.adaptive_avg_pool3d, aten.adaptive_avg_pool3d.default),
    }.items()
    for operator in operators
}


def nearest_exact(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    """Interpolation of the mode that ONNX has no operator for, by indices; others unchanged."""
    if mode != "nearest-exact" or recompute_scale_factor:
        return NotImplemented
    dims = input.dim() - 2
    decompose = decomposition_table[getattr(aten, f"_upsample_nearest_exact{dims}d").vec]
    of_axes = (None if each is None else list(ntuple(each, dims)) for each in (size, scale_factor))
    return decompose(input, *of_axes)


# By the number of axes: the modes with aligned corners, and those without.
_MODES: Mapping[int, tuple[Sequence[str], Sequence[str]]] = {
    1: (["upsample_linear1d"], ["upsample_nearest1d", "_upsample_nearest_exact1d"]),
    2: (
        ["upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"],
        ["upsample_nearest2d", "_upsample_nearest_exact2d"],
    ),
    3: (["upsample_trilinear3d"], ["upsample_nearest3d", "_upsample_nearest_exact3d"]),
}


def _forward_of(name: str) -> Callable[..., Tensor]:
    """The operator, or what ONNX knows in place of it."""
    operator = getattr(aten, name).default
    found: Callable[..., Tensor] = decomposition_table[operator] if "exact" in name else operator
    return found


_UPSAMPLING: Mapping[Any, Callable[..., Any]] = {
    getattr(aten, f"{name}_backward").default: functools.partial(
        upsampling_backward, forward=_forward_of(name), dims=dims, aligns=aligns
    )
    for dims, (with_corners, without) in _MODES.items()
    for aligns, names in ((True, with_corners), (False, without))
    for name in names
}

# ATen has these for fixed sizes only.
OPEN_SIZES: Mapping[Any, Callable[..., Any]] = {
    operator: _UPSAMPLING[operator]
    for operator in (
        aten.upsample_nearest1d_backward.default,
        aten._upsample_nearest_exact1d_backward.default,
        aten.upsample_nearest3d_backward.default,
        aten._upsample_nearest_exact3d_backward.default,
    )
}


def dense(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """A dense layer as one product of matrices.

    For an input that is not contiguous, ATen multiplies by a weight that is expanded over a dimension of the input.
    AOTInductor would keep the expanded weight as a constant.
    """
    if input.dim() < 3:
        return NotImplemented
    return F.linear(input.reshape(-1, input.shape[-1]), weight, bias).reshape(*input.shape[:-1], weight.shape[0])


def matmul(input: Tensor, other: Tensor) -> Any:
    """The same for a product with a matrix."""
    if input.dim() < 3 or other.dim() != 2:
        return NotImplemented
    return torch.matmul(input.reshape(-1, input.shape[-1]), other).reshape(*input.shape[:-1], other.shape[1])


DENSE: Mapping[Any, Callable[..., Any]] = {
    F.linear: dense,
    **dict.fromkeys((torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__), matmul),
}

KERNELS: Mapping[Any, Callable[..., Any]] = {
    **_UPSAMPLING,
    F.interpolate: nearest_exact,
    **dict.fromkeys((torch.copysign, torch.Tensor.copysign), copysign),
    torch.Tensor.copysign_: copysign_,
    aten.convolution_backward.default: convolution_backward,
    aten.avg_pool2d_backward.default: avg_pool_backward,
    aten.avg_pool3d_backward.default: avg_pool_backward,
    aten._adaptive_avg_pool2d_backward.default: functools.partial(adaptive_avg_pool_backward, dims=2),
    aten._adaptive_avg_pool3d_backward.default: functools.partial(adaptive_avg_pool_backward, dims=3),
    aten.max_pool2d_with_indices_backward.default: functools.partial(max_pool_backward, dims=2),
    aten.max_pool3d_with_indices_backward.default: functools.partial(max_pool_backward, dims=3),
    aten.adaptive_max_pool2d_backward.default: functools.partial(max_pool_backward, dims=2),
    aten.adaptive_max_pool3d_backward.default: functools.partial(max_pool_backward, dims=3),
}

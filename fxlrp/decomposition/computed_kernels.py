"""Convolutions whose kernels are computed from an input: products of windows with kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import fx

from fxlrp.decomposition.builder import Builder, Made

# The letters of the positions and of the taps, by dimension.
_POSITIONS, _TAPS = "xyz", "ijk"


def _convolution(
    dims: int,
    build: Builder,
    input: Any,
    weight: Any,
    bias: Any,
    *,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> fx.Node | None:
    """``out[o, p] = sum_{c, t} input[c, stride p + dilation t - padding] weight[o, c, t]``; None for a parameter."""
    # The padding "same" is half of what the kernels, whose size is not known yet, reach beyond one element.
    if not build.depends(weight) or padding == "same":
        return None
    amounts = (0,) * dims if padding == "valid" else _each(padding, dims)
    padded = _padded(build, input, [(amount, amount) for amount in amounts])
    return _product(build, padded, weight, bias, _each(stride, dims), _each(dilation, dims), groups)


def _transposed(
    dims: int,
    build: Builder,
    input: Any,
    weight: Any,
    bias: Any,
    *,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> fx.Node | None:
    """The convolution of the input, with ``stride - 1`` zeros behind each element, with mirrored kernels."""
    if not build.depends(weight):
        return None
    dilations, spread, amounts = _each(dilation, dims), input, []
    for index, (step, gap) in enumerate(zip(_each(stride, dims), dilations, strict=True)):
        dim = index - dims
        spread = _with_zeros_behind(build, spread, dim, step)
        cut, more = _each(padding, dims)[index], _each(output_padding, dims)[index]
        reach = build("sub", build("mul", build("size", weight, dim), gap), gap + cut)
        # There are no zeros behind the last element.
        amounts.append((reach, build("add", reach, more + 1 - step)))
    mirrored = build("flip", weight, tuple(range(-dims, 0)))
    swapped = build("transpose", build("unflatten", mirrored, 0, (groups, -1)), 1, 2)
    kernels = build("flatten", swapped, 0, 1)
    return _product(build, _padded(build, spread, amounts), kernels, bias, (1,) * dims, dilations, groups)


def _product(
    build: Builder,
    padded: Any,
    weight: Any,
    bias: Any,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> fx.Node:
    """The sums of windows times kernels, with a bias."""
    dims = len(strides)
    windows = padded
    for index, (stride, dilation) in enumerate(zip(strides, dilations, strict=True)):
        # The taps are behind all positions, so the next dimension is in the same place.
        reach = build("mul", build("size", weight, index - dims), dilation)
        windows = build("windows", windows, -dims, build("add", reach, 1 - dilation), stride)
        if dilation != 1:
            windows = build("getitem", windows, (..., slice(None, None, dilation)))
    windows = build("unflatten", windows, -(2 * dims + 1), (groups, -1))
    kernels = build("unflatten", weight, 0, (groups, -1))
    positions, taps = _POSITIONS[:dims], _TAPS[:dims]
    product = build("einsum", f"...gc{positions}{taps},goc{taps}->...go{positions}", windows, kernels)
    product = build("flatten", product, -(dims + 2), -(dims + 1))
    if bias is None:
        return product
    return build("add", product, build("unflatten", bias, -1, (-1, *(1,) * dims)))


def _with_zeros_behind(build: Builder, value: Any, dim: int, step: int) -> Any:
    """``step - 1`` zeros behind each element of a dimension, which is counted from the last."""
    if step == 1:
        return value
    spread = build("pad", build("unsqueeze", value, dim), (*(0, 0) * (-dim - 1), 0, step - 1))
    return build("flatten", spread, dim - 1, dim)


def _padded(build: Builder, value: Any, amounts: Sequence[tuple[Any, Any]]) -> Any:
    """Zeros before and behind the last dimensions; negative amounts cut off elements."""
    flat = tuple(amount for pair in reversed(amounts) for amount in pair)
    return value if all(amount == 0 for amount in flat) else build("pad", value, flat)


def _each(option: Any, dims: int) -> tuple[int, ...]:
    """An option for each dimension: one number, alone or in a list, counts for all."""
    given = tuple(option) if isinstance(option, tuple | list) else (option,)
    return given * dims if len(given) == 1 else given


DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {
    **{f"conv{dims}d": partial(_convolution, dims) for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": partial(_transposed, dims) for dims in (1, 2, 3)},
}

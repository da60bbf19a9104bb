"""Relevance of averages: pooling, means, sums over dimensions, cumulative sums, interpolation.

All are linear without weights: ``R_x = x * A^T(R / s(z))``. The transposed maps are ATen's own backward kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.bags import bag_of_rows
from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.numerics import counts_as_zero, stabilize
from fxlrp.relevance.proportional import LinearMap, by_function, derivatives, epsilons_by_name, options_of, proportional
from fxlrp.relevance.quotients import over
from fxlrp.relevance.step import Absorber, Contributions, Implementation, RuleTable, Step
from fxlrp.relevance.windows import lift, lower, ntuple, window
from fxlrp.rules.specs import Epsilon, Magnitude

aten = torch.ops.aten


@allocates
def avg_pool_transposed(
    r: Tensor,
    x: Tensor,
    *,
    dims: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """``A^T(r)`` of average pooling over ``dims`` dimensions."""
    kernel, steps, pads, _ = window(dims, kernel_size, stride, padding)
    backward = aten.avg_pool3d_backward if dims == 3 else aten.avg_pool2d_backward
    options = (ceil_mode, count_include_pad, divisor_override)
    transposed: Tensor = backward.default(lift(r, dims), lift(x, dims), kernel, steps, pads, *options)
    return lower(transposed, dims)


@allocates
def adaptive_avg_pool_transposed(r: Tensor, x: Tensor, *, dims: int) -> Tensor:
    """``A^T(r)`` of adaptive average pooling over ``dims`` dimensions."""
    more = x.dim() - dims - 2
    if more > 0:
        # Pooling to one window takes any number of dimensions in front, and the kernel of its derivative does not.
        flat = adaptive_avg_pool_transposed(r.flatten(0, more), x.flatten(0, more), dims=dims)
        return flat.reshape(x.shape)
    backward = aten._adaptive_avg_pool3d_backward if dims == 3 else aten._adaptive_avg_pool2d_backward
    transposed: Tensor = backward.default(lift(r, dims), lift(x, dims))
    return lower(transposed, dims)


def _reduced(x: Tensor, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return list(range(x.dim()))
    dims = dim if isinstance(dim, list | tuple) else (dim,)
    return sorted(d % x.dim() for d in dims)


def sum_transposed(r: Tensor, x: Tensor, *, dim: Any = None, keepdim: bool = False) -> Tensor:
    """``A^T(r)`` of a sum over dimensions."""
    if not keepdim:
        for d in _reduced(x, dim):
            r = r.unsqueeze(d)
    return r.expand_as(x)


def mean_transposed(r: Tensor, x: Tensor, *, dim: Any = None, keepdim: bool = False) -> Tensor:
    """``A^T(r)`` of a mean over dimensions."""
    count = 1
    for d in _reduced(x, dim):
        count *= x.shape[d]
    return sum_transposed(r / count, x, dim=dim, keepdim=keepdim)


def cumsum_transposed(r: Tensor, x: Tensor, *, dim: int) -> Tensor:
    """``A^T(r)`` of a cumulative sum: the cumulative sum from the end."""
    return r.flip(dim).cumsum(dim).flip(dim)


def sum_bags_transposed(r: Tensor, x: Tensor, *, offsets: Tensor, include_last_offset: bool = False) -> Tensor:
    """``A^T(r)`` of the sums of bags: each row takes that of its bag."""
    return r.index_select(0, bag_of_rows(x, offsets))


def fold_transposed(
    r: Tensor, x: Tensor, *, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """``A^T(r)`` of fold, which adds overlapping windows: cut the sum into windows."""
    return torch.nn.functional.unfold(r, kernel_size, dilation, padding, stride)


_NEAREST = {
    "nearest": (
        aten.upsample_nearest1d_backward,
        aten.upsample_nearest2d_backward,
        aten.upsample_nearest3d_backward,
    ),
    "nearest-exact": (
        aten._upsample_nearest_exact1d_backward,
        aten._upsample_nearest_exact2d_backward,
        aten._upsample_nearest_exact3d_backward,
    ),
}


def interpolate_transposed(
    r: Tensor, x: Tensor, *, mode: str = "nearest", scale_factor: Any = None, **options: Any
) -> Tensor:
    """``A^T(r)`` of interpolation in any of its modes."""
    dims = x.dim() - 2
    if mode == "area":
        return adaptive_avg_pool_transposed(r, x, dims=dims)
    factors: tuple[float | None, ...] = (None,) * dims
    if scale_factor is not None and not options.get("recompute_scale_factor"):
        factors = tuple(float(factor) for factor in ntuple(scale_factor, dims))
    if mode in _NEAREST:
        transposed: Tensor = _NEAREST[mode][dims - 1].default(r, tuple(r.shape[2:]), tuple(x.shape), *factors)
        return transposed
    # The smooth modes are products with one matrix for each axis. Their ATen kernels do not take symbolic sizes.
    for axis in range(dims):
        matrix = _axis_matrix(x, r.shape[2 + axis], axis, factors[axis], mode=mode, **options)
        r = (r.movedim(2 + axis, -1) @ matrix.T).movedim(-1, 2 + axis)
    return r


def _axis_matrix(x: Tensor, size: int, axis: int, factor: float | None, **options: Any) -> Tensor:
    """The matrix of interpolation along one axis, ``(input size, output size)``: the interpolated unit vectors."""
    length, axes = x.shape[2 + axis], range(x.dim() - 2)
    # Give the other axes two elements and read one: a single element would look like a different memory format.
    shape = [1, length, *(length if each == axis else 1 for each in axes)]
    widened = [1, length, *(length if each == axis else 2 for each in axes)]
    units = torch.eye(length, dtype=x.dtype, device=x.device).reshape(shape).expand(widened).contiguous()
    if factor is None:
        target: dict[str, Any] = {"size": [size if each == axis else 2 for each in axes]}
    else:
        target = {"scale_factor": [factor if each == axis else 1.0 for each in axes]}
    options.pop("recompute_scale_factor", None)
    matrix = torch.nn.functional.interpolate(units, **target, **options)[0]
    return matrix[(slice(None), *(slice(None) if each == axis else 0 for each in axes))]


def norm_contributions(x: Tensor, out: Tensor, *, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The contribution of each element to a norm of order zero, an infinite one or a negative one.

    Order zero counts the elements that are not zero. A norm of infinite order is the value of one element, and ties
    share equally. With a negative order zeros outweigh all other elements.
    """
    magnitude = x.abs()
    if math.isinf(ord):
        return (magnitude == sum_transposed(out, x, dim=dim, keepdim=keepdim)).to(x.dtype)
    if ord == 0:
        return (x != 0).to(x.dtype)
    smallest = magnitude.amin(_reduced(x, dim), keepdim=True)
    return torch.where(smallest == 0, (x == 0).to(x.dtype), (magnitude / smallest) ** ord)


def deviations(x: Tensor, *, dim: Any = None) -> Tensor:
    """The deviations from the mean. To a variance each contributes its square."""
    return x - x.mean(_reduced(x, dim), keepdim=True)


def largest(x: Tensor, *, dim: Any = None) -> Tensor:
    """The largest magnitude over the dimensions of a reduction; 1 if all are zero. It counts as a constant."""
    found = x.detach().abs().amax(_reduced(x, dim), keepdim=True)
    return found.masked_fill(found == 0, 1.0)


def scaled_powers(x: Tensor, scale: Tensor, *, ord: float = 2) -> Tensor:
    """``|x / scale|^p``, which does not overflow: the square of 256 does in half precision."""
    return (x / scale).abs() ** ord


def stabilize_scaled(
    powers: Tensor, scale: Tensor, epsilon: float, *, ord: float = 2, dim: Any = None, keepdim: bool = False
) -> Tensor:
    """``s(sum |x|^p) / scale^p``, from :func:`scaled_powers`."""
    total = powers.sum(_reduced(powers, dim), keepdim=True)
    total = stabilize(total, 0.0) if counts_as_zero(epsilon, total) else total + epsilon / scale**ord
    return total if keepdim else total.squeeze(_reduced(powers, dim))


def sum_over(x: Tensor, *, dim: Any = None, keepdim: bool = False) -> Tensor:
    """The sum over the dimensions of a reduction."""
    return x.sum(_reduced(x, dim), keepdim=keepdim)


_OVER = ("dim", "keepdim")
_POOLED = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_INTERPOLATED = ("scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")


def _norm_contributions(step: Step) -> fx.Node:
    options = options_of(step.operation, step.arguments, ("ord", *_OVER))
    return step.named("contributions", norm_contributions, step.operands[0], step.node, **options)


def _magnitudes(step: Step) -> fx.Node:
    return step.named("contributions", torch.abs, step.operands[0])


def _deviations(step: Step) -> fx.Node:
    options = options_of(step.operation, step.arguments, ("dim",))
    return step.named("deviations", deviations, step.operands[0], **options)


def _by_powers(step: Step, x: fx.Node) -> Contributions:
    """Divide relevance in proportion to ``|x|^p``."""
    assert isinstance(step.rule, Epsilon)
    ord, dims, kept = (options_of(step.operation, step.arguments, (name,)) for name in ("ord", "dim", "keepdim"))
    scale = step.named("scale", largest, x, **dims)
    powers = step.named("contributions", scaled_powers, x, scale, **ord)
    total = step.named("s", stabilize_scaled, powers, scale, step.rule.epsilon, **ord, **dims, **kept)
    share = step.call(sum_transposed, over(step, total), x, **dims, **kept)
    return step.to_receivers(lambda *_: step.times(powers, share))


def _of_norm(step: Step) -> Contributions:
    """The relevance of the elements of a norm, by its order."""
    return _by_powers(step, step.operands[0]) if 0 < step.arguments["ord"] < math.inf else _OF_ORDER.emit(step)


def _of_spread(step: Step) -> Contributions:
    """The relevance of the elements of a variance or its root: in proportion to squared deviations."""
    return _by_powers(step, _deviations(step))


def _statistic(contributions: Callable[[Step], fx.Node]) -> Implementation:
    """Divide relevance in proportion to contributions that are not the elements themselves."""

    def emit(step: Step) -> Contributions:
        summed = contributions(step)
        options = options_of(step.operation, step.arguments, _OVER)
        total = step.named("total", sum_over, summed, **options)
        shared = LinearMap(by_function(sum_transposed, *_OVER), lambda _: summed, lambda _: total)
        return proportional(shared).emit(step)

    return Implementation(emit, quotients=True, absorber=Absorber.NOTHING)


_MAPS = {
    **{f"avg_pool{n}d": by_function(avg_pool_transposed, *_POOLED) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": by_function(adaptive_avg_pool_transposed) for n in (1, 2, 3)},
    "mean": by_function(mean_transposed, *_OVER),
    "sum": by_function(sum_transposed, *_OVER),
    "cumsum": by_function(cumsum_transposed, "dim"),
    "sum_bags": by_function(sum_bags_transposed, "offsets", "include_last_offset"),
    "fold": by_function(fold_transposed, "kernel_size", "dilation", "padding", "stride"),
    "interpolate": by_function(interpolate_transposed, *_INTERPOLATED),
}

_EPSILONS = epsilons_by_name({name: LinearMap(each, absorber=Absorber.NOTHING) for name, each in _MAPS.items()})

_OF_ORDER = _statistic(_norm_contributions)

RULES: RuleTable = {
    **derivatives(_MAPS),
    **_EPSILONS,
    Epsilon: {
        **_EPSILONS[Epsilon],
        "vector_norm": replace(_OF_ORDER, emit=_of_norm),
        **dict.fromkeys(("var", "std"), replace(_OF_ORDER, emit=_of_spread)),
    },
    Magnitude: dict.fromkeys(("sum", "mean"), _statistic(_magnitudes)),
}

"""Relevance of averages: pooling, means, sums over dimensions, running sums, interpolation.

All are linear without weights: ``R_x = x * A^T(R / s(z))``. The transposed maps are ATen's own backward kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fxlrp.operation import Operation
from fxlrp.relevance.numerics import stabilize
from fxlrp.relevance.quotients import over_value
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.relevance.windows import lift, lower, ntuple, window
from fxlrp.rules.specs import Epsilon

aten = torch.ops.aten


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


def adaptive_avg_pool_transposed(r: Tensor, x: Tensor, *, dims: int) -> Tensor:
    """``A^T(r)`` of adaptive average pooling over ``dims`` dimensions."""
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
    """``A^T(r)`` of a running sum: the running sum from the end."""
    return r.flip(dim).cumsum(dim).flip(dim)


def fold_transposed(
    r: Tensor, x: Tensor, *, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    """``A^T(r)`` of adding up windows that overlap: cutting the sum into windows."""
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
    # The smooth modes are products of one matrix for each axis; their ATen kernels take no symbolic sizes.
    for axis in range(dims):
        matrix = _axis_matrix(x, r.shape[2 + axis], axis, factors[axis], mode=mode, **options)
        r = (r.movedim(2 + axis, -1) @ matrix.T).movedim(-1, 2 + axis)
    return r


def _axis_matrix(x: Tensor, size: int, axis: int, factor: float | None, **options: Any) -> Tensor:
    """How interpolation maps one axis, ``(input size, output size)``: it interpolates the unit vectors."""
    length, axes = x.shape[2 + axis], range(x.dim() - 2)
    # Other axes have two elements, of which one is read: a single one would look like another memory format.
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


def avg_pool_epsilon(x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, **window: Any) -> Tensor:
    """``R_x = x * A^T(R / s(z))`` of average pooling."""
    return x * avg_pool_transposed(r / stabilize(out, epsilon), x, **window)


def adaptive_avg_pool_epsilon(x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, dims: int) -> Tensor:
    """``R_x = x * A^T(R / s(z))`` of adaptive average pooling."""
    return x * adaptive_avg_pool_transposed(r / stabilize(out, epsilon), x, dims=dims)


def mean_epsilon(
    x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, dim: Any = None, keepdim: bool = False
) -> Tensor:
    """``R_x = x * A^T(R / s(z))`` of a mean over dimensions."""
    return x * mean_transposed(r / stabilize(out, epsilon), x, dim=dim, keepdim=keepdim)


def sum_epsilon(x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, dim: Any = None, keepdim: bool = False) -> Tensor:
    """``R_x = x * A^T(R / s(z))`` of a sum over dimensions."""
    return x * sum_transposed(r / stabilize(out, epsilon), x, dim=dim, keepdim=keepdim)


def interpolate_epsilon(x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, **options: Any) -> Tensor:
    """``R_x = x * A^T(R / s(z))`` of interpolation."""
    return x * interpolate_transposed(r / stabilize(out, epsilon), x, **options)


def cumsum_epsilon(x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, dim: int) -> Tensor:
    """``R_x = x * A^T(R / s(z))`` of a running sum."""
    return x * cumsum_transposed(r / stabilize(out, epsilon), x, dim=dim)


def fold_epsilon(x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, **windows: Any) -> Tensor:
    """``R_x = x * A^T(R / s(z))`` of adding up windows that overlap."""
    return x * fold_transposed(r / stabilize(out, epsilon), x, **windows)


def vector_norm_epsilon(
    x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, ord: float = 2, dim: Any = None, keepdim: bool = False
) -> Tensor:
    """``R_x = |x|^p R / s(sum |x|^p)`` of the norm ``(sum |x|^p)^(1/p)``: in proportion to what is summed."""
    return x.abs() ** ord * sum_transposed(r / stabilize(out**ord, epsilon), x, dim=dim, keepdim=keepdim)


def spread_epsilon(
    x: Tensor, out: Tensor, r: Tensor, *, epsilon: float, dim: Any = None, keepdim: bool = False
) -> Tensor:
    """``R_x = d^2 R / s(sum d^2)`` of a variance or standard deviation, by the squared deviations from the mean."""
    dims = _reduced(x, dim)
    squares = (x - x.mean(dims, keepdim=True)).square()
    total = squares.sum(dims, keepdim=keepdim)
    return squares * sum_transposed(r / stabilize(total, epsilon), x, dim=dim, keepdim=keepdim)


# The step's function, its transposed map if it is linear, and which of the forward call's arguments it needs.
_STEPS: Mapping[str, tuple[Callable[..., Tensor], Callable[..., Tensor] | None, tuple[str, ...]]] = {
    **{
        f"avg_pool{n}d": (
            avg_pool_epsilon,
            avg_pool_transposed,
            ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
        )
        for n in (1, 2, 3)
    },
    **{f"adaptive_avg_pool{n}d": (adaptive_avg_pool_epsilon, adaptive_avg_pool_transposed, ()) for n in (1, 2, 3)},
    "mean": (mean_epsilon, mean_transposed, ("dim", "keepdim")),
    "sum": (sum_epsilon, sum_transposed, ("dim", "keepdim")),
    "cumsum": (cumsum_epsilon, cumsum_transposed, ("dim",)),
    "fold": (fold_epsilon, fold_transposed, ("kernel_size", "dilation", "padding", "stride")),
    **dict.fromkeys(("var", "std"), (spread_epsilon, None, ("dim", "keepdim"))),
    "vector_norm": (vector_norm_epsilon, None, ("ord", "dim", "keepdim")),
    "interpolate": (
        interpolate_epsilon,
        interpolate_transposed,
        ("scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias"),
    ),
}


def _emit_epsilon(step: Step) -> Contributions:
    assert isinstance(step.rule, Epsilon)
    function, _, names = _STEPS[step.operation.name]
    options = options_of(step.operation, step.arguments, names)
    return [step.call(function, step.operands[0], step.node, step.relevance, epsilon=step.rule.epsilon, **options)]


def _specialize_epsilon(step: Step) -> Contributions | None:
    """``C = A^T(R / s(z))``."""
    assert isinstance(step.rule, Epsilon)
    _, transposed, names = _STEPS[step.operation.name]
    if not step.facts.quotients or transposed is None:
        return None
    (x,) = step.operands
    shared = over_value(step, step.rule.epsilon)
    return [step.times(x, step.call(transposed, shared, x, **options_of(step.operation, step.arguments, names)))]


def options_of(operation: Operation, arguments: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The named arguments that differ from their defaults, and the dimensions of a pooling operation."""
    defaults = operation.parameters
    options = {name: arguments[name] for name in names if name in arguments and arguments[name] is not defaults[name]}
    if operation.name[-2].isdigit() and operation.name[-1] == "d":
        options["dims"] = int(operation.name[-2])
    return options


RULES: RuleTable = {Epsilon: Implementation(_emit_epsilon, specialize=_specialize_epsilon)}

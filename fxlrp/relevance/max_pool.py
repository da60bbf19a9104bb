"""Relevance of max pooling: to each window's largest element, or in proportion to its elements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.average import adaptive_avg_pool_transposed, sum_over, sum_transposed
from fxlrp.relevance.held import SELECTED
from fxlrp.relevance.linear_maps import Convolution, forward, transposed
from fxlrp.relevance.proportional import LinearMap, TransposedMap, backpropagated, by_function, options_of, proportional
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.relevance.windows import lift, lower, window
from fxlrp.rules.specs import Backpropagation, Epsilon, WinnerTakesAll

aten = torch.ops.aten


@allocates
def max_pool_winner(x: Tensor, r: Tensor, **options: Any) -> Tensor:
    """All relevance of a window to its largest element, as the gradient does."""
    return to_winners(x, r, max_pool_with_winners(x, **options)[1], **options)


def max_pool_with_winners(
    x: Tensor,
    *,
    dims: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max pooling, and the index of the largest element of each window."""
    pool = aten.max_pool3d_with_indices if dims == 3 else aten.max_pool2d_with_indices
    pooled, winners = pool.default(lift(x, dims), *window(dims, kernel_size, stride, padding, dilation), ceil_mode)
    return lower(pooled, dims), winners


@allocates
def to_winners(
    x: Tensor,
    r: Tensor,
    winners: Tensor,
    *,
    dims: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """All relevance of a window to its largest element; only the shape of ``x`` is read."""
    backward = aten.max_pool3d_with_indices_backward if dims == 3 else aten.max_pool2d_with_indices_backward
    over = window(dims, kernel_size, stride, padding, dilation)
    return lower(backward.default(lift(r, dims), lift(x, dims), *over, ceil_mode, winners), dims)


def adaptive_max_pool_winner(x: Tensor, r: Tensor, *, dims: int) -> Tensor:
    """All relevance of an adaptive window to its largest element."""
    pool = aten.adaptive_max_pool3d if dims == 3 else aten.adaptive_max_pool2d
    backward = aten.adaptive_max_pool3d_backward if dims == 3 else aten.adaptive_max_pool2d_backward
    x, r = lift(x, dims), lift(r, dims)
    _, winners = pool.default(x, tuple(r.shape[-max(dims, 2) :]))
    return lower(backward.default(r, x, winners), dims)


def window_sum(x: Tensor, out: Tensor, *, dims: int, kernel_size: Any, **options: Any) -> Tensor:
    """The sum over each window of max pooling, a convolution with ones; only the shape of ``out`` is read."""
    over = _summing(x, out, dims, kernel_size, **options)
    total = forward(_channels(F.pad(lift(x, dims), over.pad), over), over.ones, None, over.geometry)
    return total.reshape(out.shape)


def window_sum_transposed(u: Tensor, x: Tensor, *, dims: int, kernel_size: Any, **options: Any) -> Tensor:
    """``A^T(u)`` of :func:`window_sum`."""
    over = _summing(x, u, dims, kernel_size, **options)
    padded = F.pad(lift(x, dims), over.pad)
    channels = _channels(padded, over)
    back = transposed(_channels(lift(u, dims), over), over.ones, channels, over.geometry).reshape(padded.shape)
    return lower(F.pad(back, [-amount for amount in over.pad]), dims)


class _Summing(NamedTuple):
    """A sum over windows as a convolution of single channels, after padding."""

    pad: list[int]
    ones: Tensor
    geometry: Convolution


def _summing(
    x: Tensor,
    out: Tensor,
    dims: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> _Summing:
    over = window(dims, kernel_size, stride, padding, dilation)
    spatial = len(over.kernel)
    # The remainder of ceil_mode and of an uneven stride is at the end of the input.
    behind = [
        (size - 1) * step + dilate * (kernel - 1) + 1 - before - length
        for size, step, dilate, kernel, before, length in zip(
            lift(out, dims).shape[-spatial:],
            over.stride,
            over.dilation,
            over.kernel,
            over.padding,
            lift(x, dims).shape[-spatial:],
            strict=True,
        )
    ]
    pad = [amount for pair in zip(reversed(over.padding), reversed(behind), strict=True) for amount in pair]
    return _Summing(pad, x.new_ones((1, 1, *over.kernel)), Convolution(over.stride, (0,) * spatial, over.dilation, 1))


def _channels(image: Tensor, over: _Summing) -> Tensor:
    return image.reshape(-1, 1, *image.shape[2 - over.ones.dim() :])


def adaptive_mean(x: Tensor, out: Tensor, *, dims: int) -> Tensor:
    """The mean over each adaptive window; only the shape of ``out`` is read."""
    pool: Callable[..., Tensor] = F.adaptive_avg_pool3d if dims == 3 else F.adaptive_avg_pool2d
    return lower(pool(lift(x, dims), tuple(lift(out, dims).shape[-max(dims, 2) :])), dims)


def amax_winner(x: Tensor, out: Tensor, r: Tensor, *, dim: Any = (), keepdim: bool = False) -> Tensor:
    """All relevance to the largest element, divided equally among ties, as the gradient does."""
    out, r = (sum_transposed(each, x, dim=dim, keepdim=keepdim) for each in (out, r))
    winners = (x == out).to(x.dtype)
    count = sum_transposed(sum_over(winners, dim=dim, keepdim=keepdim), x, dim=dim, keepdim=keepdim)
    return r * winners / count


WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


_OVER = ("dim", "keepdim")


def _winner(find: Callable[[Step, fx.Node], fx.Node]) -> Implementation:
    """All relevance to the largest element; ``find`` emits its relevance."""

    def emit(step: Step) -> Contributions:
        return [find(step, step.relevance)]

    def specialize(step: Step) -> Contributions | None:
        """The largest element equals the result, so a quotient by one is a quotient by the other."""
        if step.single.base is not step.node or not step.may_drop:
            return None
        return [step.times(step.operands[0], find(step, step.single.factor))]

    return Implementation(emit, specialize=specialize, quotients=True, follows=True, frozen=SELECTED)


def _transposed(find: Callable[[Step, fx.Node], fx.Node]) -> TransposedMap:
    return lambda step, u, _: find(step, u)


def _to_window_winner(step: Step, r: fx.Node) -> fx.Node:
    options = options_of(step.operation, step.arguments, WINDOW)
    return step.call(max_pool_winner, step.operands[0], r, **options)


def _to_adaptive_winner(step: Step, r: fx.Node) -> fx.Node:
    return step.call(adaptive_max_pool_winner, step.operands[0], r, dims=step.operation.dims)


def _to_largest(step: Step, r: fx.Node) -> fx.Node:
    return step.call(amax_winner, step.operands[0], step.node, r, **options_of(step.operation, step.arguments, _OVER))


def _window_sum(step: Step) -> fx.Node:
    options = options_of(step.operation, step.arguments, WINDOW)
    return step.named("total", window_sum, step.operands[0], step.node, **options)


def _adaptive_mean(step: Step) -> fx.Node:
    return step.named("total", adaptive_mean, step.operands[0], step.node, dims=step.operation.dims)


def _sum(step: Step) -> fx.Node:
    return step.named("total", torch.sum, step.operands[0], **options_of(step.operation, step.arguments, _OVER))


def _shared(transposed: Callable[..., Tensor], total: Callable[[Step], fx.Node], *names: str) -> Implementation:
    """LRP-epsilon of the sum over the elements that max pooling compares."""
    return proportional(LinearMap(by_function(transposed, *names), total=total))


_WINNERS: Mapping[str, Callable[[Step, fx.Node], fx.Node]] = {
    **{f"max_pool{n}d": _to_window_winner for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": _to_adaptive_winner for n in (1, 2, 3)},
    "amax": _to_largest,
}

RULES: RuleTable = {
    WinnerTakesAll: {name: _winner(find) for name, find in _WINNERS.items()},
    Backpropagation: {name: backpropagated(_transposed(find)) for name, find in _WINNERS.items()},
    Epsilon: {
        **{f"max_pool{n}d": _shared(window_sum_transposed, _window_sum, *WINDOW) for n in (1, 2, 3)},
        **{f"adaptive_max_pool{n}d": _shared(adaptive_avg_pool_transposed, _adaptive_mean) for n in (1, 2, 3)},
        "amax": _shared(sum_transposed, _sum, *_OVER),
    },
}

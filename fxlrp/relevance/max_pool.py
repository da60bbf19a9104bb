"""Relevance of max pooling: to each window's largest element, or in proportion to its elements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxlrp.relevance.average import adaptive_avg_pool_transposed, options_of, sum_epsilon, sum_transposed
from fxlrp.relevance.linear_maps import Convolution, forward, transposed
from fxlrp.relevance.numerics import stabilize
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.relevance.windows import lift, lower, window
from fxlrp.rules.specs import Epsilon, WinnerTakesAll

aten = torch.ops.aten


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
    """Max pooling, and which element won each window."""
    pool = aten.max_pool3d_with_indices if dims == 3 else aten.max_pool2d_with_indices
    pooled, winners = pool.default(lift(x, dims), *window(dims, kernel_size, stride, padding, dilation), ceil_mode)
    return lower(pooled, dims), winners


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
    """All relevance of a window to the element that won it; of ``x`` only the shape is read."""
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


def max_pool_epsilon(
    x: Tensor,
    r: Tensor,
    *,
    dims: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    epsilon: float,
) -> Tensor:
    """``R_x = x * A^T(R / s(A x))`` with ``A`` the sum over each window, a convolution with ones."""
    over = window(dims, kernel_size, stride, padding, dilation)
    image, r = lift(x, dims), lift(r, dims)
    spatial = len(over.kernel)
    ones = x.new_ones((1, 1, *over.kernel))
    # What ceil_mode adds, and what an uneven stride leaves, lies behind the input.
    behind = [
        (out - 1) * step + dilate * (size - 1) + 1 - before - length
        for out, step, dilate, size, before, length in zip(
            r.shape[-spatial:],
            over.stride,
            over.dilation,
            over.kernel,
            over.padding,
            image.shape[-spatial:],
            strict=True,
        )
    ]
    pad = [amount for pair in zip(reversed(over.padding), reversed(behind), strict=True) for amount in pair]
    padded = F.pad(image, pad)
    channels = padded.reshape(-1, 1, *padded.shape[-spatial:])
    geometry = Convolution(over.stride, (0,) * spatial, over.dilation, 1)
    total = forward(channels, ones, None, geometry)
    share = r.reshape(total.shape) / stabilize(total, epsilon)
    back = transposed(share, ones, channels, geometry).reshape(padded.shape)
    return lower(image * F.pad(back, [-amount for amount in pad]), dims)


def amax_winner(x: Tensor, out: Tensor, r: Tensor, *, dim: Any = (), keepdim: bool = False) -> Tensor:
    """All relevance to the largest element, shared equally among equals, as the gradient does."""
    out, r = (sum_transposed(each, x, dim=dim, keepdim=keepdim) for each in (out, r))
    winners = (x == out).to(x.dtype)
    count = sum_transposed(torch.sum(winners, dim=dim or None, keepdim=keepdim), x, dim=dim, keepdim=keepdim)
    return r * winners / count


def adaptive_max_pool_epsilon(x: Tensor, r: Tensor, *, dims: int, epsilon: float) -> Tensor:
    """``R_x = x * A^T(R / s(A x))`` with ``A`` the mean over each adaptive window."""
    pool: Callable[..., Tensor] = F.adaptive_avg_pool3d if dims == 3 else F.adaptive_avg_pool2d
    mean = lower(pool(lift(x, dims), tuple(lift(r, dims).shape[-max(dims, 2) :])), dims)
    return x * adaptive_avg_pool_transposed(r / stabilize(mean, epsilon), x, dims=dims)


WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")


def _emit_winner(step: Step) -> Contributions:
    return [_to_winner(step, step.relevance)]


def _specialize_winner(step: Step) -> Contributions | None:
    """The winner's value is the result, so a quotient by the one is a quotient by the other."""
    if step.single.base is not step.node:
        return None
    return [step.times(step.operands[0], _to_winner(step, step.single.factor))]


def _to_winner(step: Step, r: fx.Node) -> fx.Node:
    (x,) = step.operands
    if step.operation.name == "amax":
        return step.call(amax_winner, x, step.node, r, **options_of(step.operation, step.arguments, ("dim", "keepdim")))
    adaptive = step.operation.name.startswith("adaptive")
    function = adaptive_max_pool_winner if adaptive else max_pool_winner
    return step.call(function, x, r, **options_of(step.operation, step.arguments, WINDOW))


def _emit_epsilon(step: Step) -> Contributions:
    assert isinstance(step.rule, Epsilon)
    (x,) = step.operands
    epsilon = step.rule.epsilon
    if step.operation.name == "amax":
        options = options_of(step.operation, step.arguments, ("dim", "keepdim"))
        total = step.call(torch.sum, x, **options)
        return [step.call(sum_epsilon, x, total, step.relevance, epsilon=epsilon, **options)]
    adaptive = step.operation.name.startswith("adaptive")
    function = adaptive_max_pool_epsilon if adaptive else max_pool_epsilon
    return [
        step.call(function, x, step.relevance, epsilon=epsilon, **options_of(step.operation, step.arguments, WINDOW))
    ]


RULES: RuleTable = {
    WinnerTakesAll: Implementation(_emit_winner, specialize=_specialize_winner),
    Epsilon: Implementation(_emit_epsilon),
}

"""Max pooling and other maxima against oracles, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxlrp import rules
from helpers import Function, epsilon_with, explained, seed_of
from oracles import (
    One,
    assert_relevance,
    move_back,
    pool_windows,
    random,
)

MAX_POOLS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.MaxPool1d(2), (2, 8)),
    "1d overlap": (nn.MaxPool1d(3, stride=1, padding=1), (2, 7)),
    "1d dilation": (nn.MaxPool1d(2, stride=2, dilation=3), (2, 9)),
    "1d ceil": (nn.MaxPool1d(3, stride=2, ceil_mode=True), (2, 8)),
    "2d": (nn.MaxPool2d(2), (2, 4, 6)),
    "2d remainder": (nn.MaxPool2d(2), (2, 5, 7)),
    "2d resnet": (nn.MaxPool2d(3, stride=2, padding=1), (2, 7, 6)),
    "2d alexnet": (nn.MaxPool2d(kernel_size=3, stride=2), (2, 7, 7)),
    "2d googlenet": (nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True), (2, 5, 5)),
    "2d ceil": (nn.MaxPool2d(3, stride=2, ceil_mode=True), (2, 6, 6)),
    "2d asymmetric": (nn.MaxPool2d((2, 3), stride=(1, 2), padding=(0, 1), dilation=(2, 1)), (2, 6, 6)),
    "3d": (nn.MaxPool3d(2, stride=(1, 2, 2), padding=(1, 0, 0)), (2, 3, 4, 5)),
    "3d overlap": (nn.MaxPool3d(2, stride=1), (1, 3, 3, 3)),
}


def numbers(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value)


@pytest.mark.parametrize("option", [None, rules.WinnerTakesAll()], ids=str)
@pytest.mark.parametrize("name", MAX_POOLS)
def test_max_pool_winner_takes_all(name: str, option: object) -> None:
    """As the gradient routes it, ties included: zeros tie in every window after a ReLU."""
    pool, shape = MAX_POOLS[name]
    x = torch.cat([random(2, *shape), random(1, *shape, seed=1).clamp(min=0)])
    seed = seed_of(pool(x))
    pairs = [(type(pool), option)] if option else []
    assert_relevance(explained(nn.Sequential(pool), (x,), seed, epsilon_with(*pairs)), move_back(pool, x, seed))


@pytest.mark.parametrize("name", MAX_POOLS)
def test_max_pool_in_proportion(name: str) -> None:
    """R_j = sum over windows of x_j / (sum of x in the window) R; padding has no part in it.

    The epsilon is tiny: whether it goes to the sum of a window or to its mean is not what this is about.
    """
    pool: Any
    pool, shape = MAX_POOLS[name]
    d = len(shape) - 1
    x = random(3, *shape)
    x[1] = x[1].abs()
    seed = seed_of(pool(x))
    kernel, padding, dilation = (numbers(v, d) for v in (pool.kernel_size, pool.padding, pool.dilation))
    windows = pool_windows(shape[1:], kernel, numbers(pool.stride, d), padding, dilation, seed.shape[2:])
    planes, at_planes = x.reshape(3 * shape[0], -1), seed.reshape(3 * shape[0], -1)
    share = at_planes / (planes @ windows.T)
    expected = (planes * (share @ windows)).reshape(x.shape)
    relevance = explained(nn.Sequential(pool), (x,), seed, epsilon_with((type(pool), rules.Epsilon(epsilon=1e-14))))
    assert_relevance(relevance, expected, 1e-9)


FUNCTIONAL_MAX: dict[str, Function] = {
    "F.max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "torch.max_pool2d": lambda x: torch.max_pool2d(x, 2),
    "F.max_pool2d by name": lambda x: F.max_pool2d(input=x, kernel_size=(2, 2), stride=None, ceil_mode=True),
    "F.adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, (2, 3)),
    "nn.AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(1),
    "amax": lambda x: torch.amax(x, dim=(2, 3)),
}


@pytest.mark.parametrize("name", FUNCTIONAL_MAX)
def test_max_written_otherwise(name: str) -> None:
    function, x = FUNCTIONAL_MAX[name], random(2, 3, 5, 7)
    seed = seed_of(function(x))
    assert_relevance(explained(One(function), (x,), seed), move_back(function, x, seed))


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1, (0,), (0, 2), (), None])
def test_ties_share_equally_over_any_dimensions(dim: int | tuple[int, ...] | None, keepdim: bool) -> None:
    """As the gradient of ``amax`` does."""
    over: dict[str, Any] = {} if dim is None else {"dim": dim}

    def largest(x: Tensor) -> Tensor:
        return torch.amax(x, keepdim=keepdim, **over)

    x = random(4, 3, 5).round()
    seed = seed_of(largest(x))
    assert_relevance(explained(One(largest), (x,), seed), move_back(largest, x, seed))

"""keep_pool_indices: max pooling runs once."""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import Optimizations, rules
from helpers import modules_of
from optimization_checks import CONFIGURATIONS, assert_same, calibrated, counts, kernels, untrained
from oracles import One, random

X, Y = random(3, 6, seed=3), random(3, 6, seed=4)


@pytest.mark.parametrize(("name", "count"), [("vgg16", 5), ("resnet18", 1), ("squeezenet1_0", 3), ("googlenet", 13)])
def test_keep_pool_indices_counts(name: str, count: int) -> None:
    model = untrained(name)
    assert modules_of(model, nn.MaxPool2d) == count == counts(model)["keep_pool_indices"]
    assert counts(model, [("max_pool2d", rules.Epsilon())])["keep_pool_indices"] == 0


def test_keep_pool_indices_pools_once() -> None:
    """As many poolings run as the model has."""
    model, x = calibrated("squeezenet1_0", torch.float32, 64)
    expected = {True: 3, False: 6}
    for keep, count in expected.items():
        explain = fxlrp.compile(model, optimize=Optimizations(keep_pool_indices=keep))
        assert kernels(explain, x).count["max_pool2d_with_indices"] == count


def pooled_twice(kernel: int, x: Tensor) -> Tensor:
    return F.max_pool1d(x, 3, 1, 1) * 2 + F.max_pool1d(x, kernel, 1, kernel // 2)


def test_keep_pool_indices_for_two_poolings_of_one_value() -> None:
    """The steps of both find a pooling, whether the windows are the same or not."""
    for kernel in (3, 1):
        model = One(functools.partial(pooled_twice, kernel))
        assert counts(model.eval())["keep_pool_indices"] == 2
        assert_same(model, None, X, configurations=list(CONFIGURATIONS), seed=torch.ones_like)

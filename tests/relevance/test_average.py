"""Linear maps without weights: averages, sums, resampling. By epsilon on the matrix of the map, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxlrp
import oracles
from fxlrp import rules
from helpers import LRP0, Function, epsilon_with, explained, seed_of
from oracles import (
    One,
    assert_relevance,
    epsilon_rule,
    jacobian,
    random,
    stabilize,
    through,
)

LINEAR: dict[str, tuple[Function, tuple[int, ...]]] = {
    "avg_pool1d": (nn.AvgPool1d(3, stride=2, padding=1), (2, 7)),
    "avg_pool2d": (nn.AvgPool2d(2), (2, 4, 6)),
    "avg_pool2d overlap": (nn.AvgPool2d(3, stride=1, padding=1), (2, 5, 5)),
    "avg_pool2d remainder": (nn.AvgPool2d(2), (2, 5, 7)),
    "avg_pool2d no pad count": (nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False), (2, 5, 6)),
    "avg_pool2d ceil": (nn.AvgPool2d(3, stride=2, ceil_mode=True), (2, 6, 6)),
    "avg_pool2d ceil pad": (nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), (2, 6, 6)),
    "avg_pool2d ceil no count": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 6, 6)),
    "avg_pool2d divisor": (nn.AvgPool2d((2, 3), stride=(1, 2), divisor_override=5), (2, 5, 6)),
    "avg_pool3d": (nn.AvgPool3d(2, stride=(1, 2, 2), padding=(1, 0, 1)), (1, 3, 4, 4)),
    "F.avg_pool2d": (lambda x: F.avg_pool2d(x, 2, stride=1, padding=1), (2, 4, 4)),
    "F.avg_pool2d whole plane": (lambda x: F.avg_pool2d(x, kernel_size=x.size()[2:]), (2, 4, 3)),
    "adaptive_avg_pool1d": (nn.AdaptiveAvgPool1d(3), (2, 7)),
    "adaptive_avg_pool2d to 1": (nn.AdaptiveAvgPool2d(1), (3, 4, 5)),
    "adaptive_avg_pool2d to 2, 3": (nn.AdaptiveAvgPool2d((2, 3)), (2, 5, 7)),
    "adaptive_avg_pool2d to None, 2": (nn.AdaptiveAvgPool2d((None, 2)), (2, 3, 5)),
    "adaptive_avg_pool2d up": (nn.AdaptiveAvgPool2d((7, 7)), (1, 3, 2)),
    "adaptive_avg_pool3d": (nn.AdaptiveAvgPool3d((1, 2, 2)), (1, 2, 3, 4)),
    "F.adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (1, 1)), (3, 4, 4)),
    "mean over the plane": (lambda x: x.mean([2, 3]), (3, 4, 5)),
    "mean, kept": (lambda x: x.mean(dim=(-2, -1), keepdim=True), (3, 4, 5)),
    "torch.mean of one": (lambda x: torch.mean(x, 1), (3, 4, 5)),
    "mean of a negative dim": (lambda x: torch.mean(x, dim=-1, keepdim=True), (3, 4)),
    "sum of one": (lambda x: x.sum(1), (3, 4, 5)),
    "sum, kept": (lambda x: torch.sum(x, dim=[1, 3], keepdim=True), (3, 4, 5)),
    "sum of a negative dim": (lambda x: x.sum(-1), (3, 4)),
    "nearest": (nn.Upsample(scale_factor=2, mode="nearest"), (2, 3, 4)),
    "nearest to a size": (nn.Upsample(size=(5, 7)), (2, 3, 4)),
    "nearest down": (lambda x: F.interpolate(x, size=(2, 3)), (2, 5, 7)),
    "nearest-exact": (lambda x: F.interpolate(x, size=(5, 3), mode="nearest-exact"), (2, 3, 4)),
    "nearest 1d": (lambda x: F.interpolate(x, scale_factor=1.5), (2, 6)),
    "linear": (lambda x: F.interpolate(x, size=9, mode="linear"), (2, 5)),
    "bilinear": (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 3, 4)),
    "bilinear corners": (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (2, 3, 4)),
    "bilinear as the deep-lab head": (
        lambda x: F.interpolate(x, size=x.shape[-1:] + x.shape[-1:], mode="bilinear", align_corners=False),
        (2, 3, 5),
    ),
    "bilinear antialias": (lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True), (1, 7, 6)),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=(2.0, 1.5), mode="bicubic"), (1, 4, 4)),
    "bicubic corners": (
        lambda x: F.interpolate(x, size=(6, 5), mode="bicubic", align_corners=True),
        (1, 4, 4),
    ),
    "trilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), (1, 2, 3, 2)),
    "area": (lambda x: F.interpolate(x, size=(2, 3), mode="area"), (1, 5, 6)),
    "upsampling bilinear": (nn.UpsamplingBilinear2d(scale_factor=2), (1, 3, 3)),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_without_weights(name: str) -> None:
    function, shape = LINEAR[name]
    x = random(3, *shape)
    x[1] = x[1].abs()
    seed = seed_of(function(x))
    model = nn.Sequential(function) if isinstance(function, nn.Module) else One(function)
    weight, bias, output_shape = jacobian(function, shape)
    assert not bias.any()
    m = oracles.DenseMap(weight, bias, (weight != 0).double(), shape, output_shape)
    assert_relevance(explained(model, (x,), seed), through(epsilon_rule, m, x, seed))


def test_epsilon_of_an_average() -> None:
    x = random(2, 3, 4, 4)
    seed = seed_of(x.mean((2, 3)))
    expected = x / 16 * (seed / stabilize(x.mean((2, 3)), 0.2))[:, :, None, None]
    relevance = explained(One(lambda x: x.mean((2, 3))), (x,), seed, epsilon_with(("mean", rules.Epsilon(0.2))))
    assert_relevance(relevance, expected)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    relevance = explained(pooled, (x,), seed, epsilon_with(("adaptive_avg_pool2d", rules.Epsilon(0.2))))
    assert_relevance(relevance, expected)


def test_average_of_zeros() -> None:
    """A dead channel: 0 / 0 is no relevance, at epsilon 0 too."""
    x = random(2, 3, 4, 4)
    x[:, 1] = 0
    seed = seed_of(x.mean((2, 3)))
    means = torch.where(x.mean((2, 3)) == 0, torch.ones(()), x.mean((2, 3)))
    relevance = explained(One(lambda x: x.mean((2, 3))), (x,), seed, epsilon_with(("mean", rules.Epsilon(0.0))))
    assert_relevance(relevance, x / 16 * (seed / means)[:, :, None, None])


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("more", [-1, 0, 1, 2])
def test_adaptive_pooling_to_one_window_with_any_number_of_dimensions_in_front(dims: int, more: int) -> None:
    pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[dims - 1]
    x = random(2, *[3] * (more + 1), *[4] * dims)
    try:
        pool(x, 1)
    except RuntimeError:
        pytest.skip("PyTorch does not take it")
    model = One(lambda x: pool(x, 1).flatten(1).sum(1, keepdim=True)).eval()
    found = fxlrp.compile(model, LRP0, example_inputs=x)(x, target=0)
    # Each element counts with one over the number of elements of its window.
    assert_relevance(found, x / 4**dims, 1e-12)

"""Pooling, resampling, activations, normalization and shape operations against oracles, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import oracles
from fxlrp import presets, rules
from fxlrp.errors import InputError
from oracles import (
    EPSILON,
    One,
    Two,
    assert_relevance,
    dense_map,
    epsilon_rule,
    jacobian,
    move_back,
    pool_windows,
    random,
    randomize,
    stabilize,
    through,
)

Function = Callable[..., Tensor]


class Constants(nn.Module):
    """A function of the input and of constants that the model holds."""

    def __init__(self, function: Function, **constants: Tensor) -> None:
        super().__init__()
        self.function, self.names = function, tuple(constants)
        for name, constant in constants.items():
            self.register_buffer(name, constant)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, name) for name in self.names))


def explained(model: nn.Module, x: Tensor, seed: Tensor, *pairs: Any) -> Tensor:
    """Epsilon everywhere, but for the pairs."""
    rule_set = presets.epsilon(epsilon=EPSILON)
    explain = fxlrp.compile(model.double().eval(), rules=rule_set.override(list(pairs)) if pairs else rule_set)
    return explain(x.clone(), seed=seed)


def seed_of(y: Tensor) -> Tensor:
    return random(*y.shape, seed=77)


# ----------------------------------------------------------------------------------------------------
# Max pooling

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
    assert_relevance(explained(nn.Sequential(pool), x, seed, *pairs), move_back(pool, x, seed))


@pytest.mark.parametrize("name", MAX_POOLS)
def test_max_pool_in_proportion(name: str) -> None:
    """R_j = sum over windows of x_j / (sum of x in the window) R; padding has no part in it.

    The epsilon is tiny: whether it goes to the sum of a window or to its mean is not what this is about.
    """
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
    relevance = explained(nn.Sequential(pool), x, seed, (type(pool), rules.Epsilon(epsilon=1e-14)))
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
    assert_relevance(explained(One(function), x, seed), move_back(function, x, seed))


# ----------------------------------------------------------------------------------------------------
# Linear without weights: averages, sums, resampling. By epsilon on the matrix of the map.

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
    assert_relevance(explained(model, x, seed), through(epsilon_rule, m, x, seed))


def test_epsilon_of_an_average() -> None:
    x = random(2, 3, 4, 4)
    seed = seed_of(x.mean((2, 3)))
    expected = x / 16 * (seed / stabilize(x.mean((2, 3)), 0.2))[:, :, None, None]
    relevance = explained(One(lambda x: x.mean((2, 3))), x, seed, ("mean", rules.Epsilon(0.2)))
    assert_relevance(relevance, expected)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    relevance = explained(pooled, x, seed, ("adaptive_avg_pool2d", rules.Epsilon(0.2)))
    assert_relevance(relevance, expected)


def test_average_of_zeros() -> None:
    """A dead channel: 0 / 0 is no relevance, at epsilon 0 too."""
    x = random(2, 3, 4, 4)
    x[:, 1] = 0
    seed = seed_of(x.mean((2, 3)))
    means = torch.where(x.mean((2, 3)) == 0, torch.ones(()), x.mean((2, 3)))
    relevance = explained(One(lambda x: x.mean((2, 3))), x, seed, ("mean", rules.Epsilon(0.0)))
    assert_relevance(relevance, x / 16 * (seed / means)[:, :, None, None])


# ----------------------------------------------------------------------------------------------------
# Activations let everything pass

ACTIVATIONS: dict[str, nn.Module | Function] = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "nn.ReLU6": nn.ReLU6(),
    "nn.LeakyReLU": nn.LeakyReLU(0.2),
    "nn.PReLU": nn.PReLU(),
    "nn.PReLU by channel": nn.PReLU(4),
    "nn.ELU": nn.ELU(),
    "nn.CELU": nn.CELU(),
    "nn.SELU": nn.SELU(),
    "nn.GELU": nn.GELU(),
    "nn.GELU tanh": nn.GELU(approximate="tanh"),
    "nn.SiLU": nn.SiLU(inplace=True),
    "nn.Hardswish": nn.Hardswish(inplace=True),
    "nn.Hardsigmoid": nn.Hardsigmoid(),
    "nn.Hardtanh": nn.Hardtanh(-0.5, 0.5),
    "nn.Tanh": nn.Tanh(),
    "nn.Sigmoid": nn.Sigmoid(),
    "nn.Softplus": nn.Softplus(),
    "nn.Softsign": nn.Softsign(),
    "nn.Mish": nn.Mish(),
    "nn.Identity": nn.Identity(),
    "nn.Dropout": nn.Dropout(0.5),
    "nn.Dropout2d": nn.Dropout2d(0.5),
    "F.relu": lambda x: F.relu(x),
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": lambda x: torch.relu(x),
    "method relu": lambda x: x.relu(),
    "F.relu6": lambda x: F.relu6(x),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "F.elu": lambda x: F.elu(x),
    "F.gelu": lambda x: F.gelu(x),
    "F.silu": lambda x: F.silu(x),
    "F.mish": lambda x: F.mish(x),
    "F.hardswish": lambda x: F.hardswish(x),
    "F.hardsigmoid": lambda x: F.hardsigmoid(x),
    "F.softplus": lambda x: F.softplus(x),
    "torch.tanh": lambda x: torch.tanh(x),
    "torch.sigmoid": lambda x: x.sigmoid(),
    "clamp": lambda x: x.clamp(-1, 1),
    "torch.clamp": lambda x: torch.clamp(x, min=0.0),
    "F.dropout": lambda x: F.dropout(x, 0.5, training=False),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_passes_everything(name: str) -> None:
    activation, x = ACTIVATIONS[name], random(3, 4, 5)
    model = nn.Sequential(activation) if isinstance(activation, nn.Module) else One(activation)
    seed = random(3, 4, 5, seed=1)
    given = x.clone()
    explain = fxlrp.compile(model.double().eval(), rules="epsilon")
    assert_relevance(explain(given, seed=seed), seed)
    assert torch.equal(given, x), "the input was written to"


def test_in_place_activation_keeps_what_the_layer_below_needs() -> None:
    """ReLU(inplace=True) overwrites z, which the rule of the layer below divides by."""
    torch.manual_seed(1)
    linear = nn.Linear(5, 4).double()
    x, seed = random(3, 5), random(3, 4)
    expected = through(epsilon_rule, dense_map(linear, (5,)), x, seed)
    for activation in (nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.ReLU()):
        assert_relevance(explained(nn.Sequential(linear, activation), x, seed), expected)


# ----------------------------------------------------------------------------------------------------
# Normalization in eval mode. A tiny epsilon where a rule may take one step or several (centring, scaling):
# they agree as epsilon goes to 0, and every z here is far from it.

TINY = 1e-14


def layer_norm_matrix(groups: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """For samples (B, g, n): the centring matrix (n, n), and 1/sigma (B, g, 1), taken as constant."""
    n = groups.shape[-1]
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    variance = (groups @ centring).square().mean(-1, keepdim=True)
    return centring, 1 / torch.sqrt(variance + eps)


def normalized_relevance(
    groups: Tensor, factor: Tensor, offset: Tensor, seed: Tensor, eps: float, epsilon: float
) -> Tensor:
    """y = factor * (C x) / sigma + offset by the epsilon rule: R_x = x * Cᵀ(factor / sigma * R / s(y))."""
    centring, scale = layer_norm_matrix(groups, eps)
    y = factor * scale * (groups @ centring) + offset
    return groups * ((factor * scale * seed / stabilize(y, epsilon)) @ centring)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(6,), (4, 6)], ids=str)
def test_layer_norm(affine: bool, shape: tuple[int, ...]) -> None:
    norm = randomize(nn.LayerNorm(shape, elementwise_affine=affine))
    x, seed = random(3, 2, *shape) + 0.5, random(3, 2, *shape, seed=1)
    n = x[0, 0].numel()
    factor = norm.weight.detach().reshape(1, 1, n) if affine else torch.ones(())
    offset = norm.bias.detach().reshape(1, 1, n) if affine else torch.zeros(())
    groups, at_groups = x.reshape(3, 2, n), seed.reshape(3, 2, n)
    expected = normalized_relevance(groups, factor, offset, at_groups, norm.eps, TINY).reshape(x.shape)
    found = explained(nn.Sequential(norm), x, seed, (nn.LayerNorm, rules.Epsilon(TINY)))
    assert_relevance(found, expected, 1e-9)
    called = One(lambda x: F.layer_norm(x, shape, eps=1e-3))
    expected = normalized_relevance(groups, torch.ones(()), torch.zeros(()), at_groups, 1e-3, TINY)
    found = explained(called, x, seed, ("layer_norm", rules.Epsilon(TINY)))
    assert_relevance(found, expected.reshape(x.shape), 1e-9)


def per_channel(parameter: Tensor, x: Tensor, groups: int) -> Tensor:
    """A parameter of the channels, as (1, groups, elements of a group) of a sample."""
    channel_first = parameter.detach().reshape(1, -1, *[1] * (x.dim() - 2))
    return channel_first.expand(1, *x.shape[1:]).reshape(1, groups, -1)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(groups: int, affine: bool) -> None:
    norm = randomize(nn.GroupNorm(groups, 4, affine=affine))
    x, seed = random(3, 4, 2, 3) + 0.5, random(3, 4, 2, 3, seed=1)
    factor = per_channel(norm.weight, x, groups) if affine else torch.ones(())
    offset = per_channel(norm.bias, x, groups) if affine else torch.zeros(())
    expected = normalized_relevance(
        x.reshape(3, groups, -1), factor, offset, seed.reshape(3, groups, -1), norm.eps, TINY
    )
    found = explained(nn.Sequential(norm), x, seed, (nn.GroupNorm, rules.Epsilon(TINY)))
    assert_relevance(found, expected.reshape(x.shape), 1e-9)


INSTANCE_NORMS = [(nn.InstanceNorm1d, (7,)), (nn.InstanceNorm2d, (2, 3)), (nn.InstanceNorm3d, (2, 2, 2))]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "plane"), INSTANCE_NORMS, ids=lambda v: getattr(v, "__name__", ""))
def test_instance_norm(kind: type[nn.Module], plane: tuple[int, ...], affine: bool) -> None:
    norm = randomize(kind(4, affine=affine))
    x, seed = random(3, 4, *plane) + 0.5, random(3, 4, *plane, seed=1)
    factor = per_channel(norm.weight, x, 4) if affine else torch.ones(())
    offset = per_channel(norm.bias, x, 4) if affine else torch.zeros(())
    expected = normalized_relevance(x.reshape(3, 4, -1), factor, offset, seed.reshape(3, 4, -1), norm.eps, TINY)
    found = explained(nn.Sequential(norm), x, seed, (kind, rules.Epsilon(TINY)))
    assert_relevance(found, expected.reshape(x.shape), 1e-9)


def test_instance_norm_with_running_statistics() -> None:
    """In eval mode these are constants: an affine map, as BatchNorm's."""
    norm = randomize(nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    x, seed = random(3, 4, 2, 3), random(3, 4, 2, 3, seed=1)
    m = dense_map(norm, (4, 2, 3), taps_of=nn.Identity())
    assert_relevance(explained(nn.Sequential(norm), x, seed), through(epsilon_rule, m, x, seed))


@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(affine: bool) -> None:
    """y = factor x / rms, element by element: R_x = y / s(y) R."""
    norm = randomize(nn.RMSNorm(6, eps=1e-3, elementwise_affine=affine))
    x, seed = random(3, 4, 6), random(3, 4, 6, seed=1)
    y = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-3) * (norm.weight.detach() if affine else 1.0)
    assert_relevance(explained(nn.Sequential(norm), x, seed), y * seed / stabilize(y))
    found = explained(nn.Sequential(norm), x, seed, (nn.RMSNorm, rules.Epsilon(0.25)))
    assert_relevance(found, y * seed / stabilize(y, 0.25))


# ----------------------------------------------------------------------------------------------------
# BatchNorm

BATCH_NORMS = [
    (nn.BatchNorm1d, ()),
    (nn.BatchNorm1d, (5,)),
    (nn.BatchNorm2d, (2, 3)),
    (nn.BatchNorm3d, (2, 2, 2)),
]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "plane"), BATCH_NORMS, ids=str)
def test_batch_norm_alone(kind: type[nn.Module], plane: tuple[int, ...], affine: bool) -> None:
    """With no layer to be folded into: z = f x + c with f = weight / sigma, R_x = f x R / s(z)."""
    norm = randomize(kind(4, affine=affine))
    x, seed = random(3, 4, *plane), random(3, 4, *plane, seed=1)
    channel = (1, 4, *[1] * len(plane))
    factor = (norm.running_var + norm.eps).rsqrt() * (norm.weight.detach() if affine else 1.0)
    offset = (norm.bias.detach() if affine else 0.0) - norm.running_mean * factor
    factor, offset = factor.reshape(channel), offset.reshape(channel)
    z = factor * x + offset
    assert_relevance(explained(nn.Sequential(norm), x, seed), factor * x * seed / stabilize(z))
    found = explained(nn.Sequential(norm), x, seed, ("batch_norm", rules.Epsilon(0.25)))
    assert_relevance(found, factor * x * seed / stabilize(z, 0.25))


FOLDED: dict[str, tuple[Callable[[], tuple[nn.Module, nn.Module]], tuple[int, ...]]] = {
    "conv1d": (lambda: (nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d(3)), (2, 6)),
    "conv2d": (lambda: (nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(3)), (2, 5, 5)),
    "conv2d bias": (lambda: (nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), (2, 4, 4)),
    "conv2d groups": (lambda: (nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4)), (4, 3, 3)),
    "conv2d plain norm": (lambda: (nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3, affine=False, eps=1e-2)), (2, 4, 4)),
    "conv3d": (lambda: (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (2, 3, 3, 2)),
    "linear": (lambda: (nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
    "linear no bias": (lambda: (nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)), (5,)),
    "conv_transpose1d": (lambda: (nn.ConvTranspose1d(2, 3, 3, stride=2), nn.BatchNorm1d(3)), (2, 4)),
    "conv_transpose2d": (
        lambda: (nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(3)),
        (2, 3, 3),
    ),
    "conv_transpose2d groups": (
        lambda: (nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6)),
        (4, 3, 3),
    ),
}
FOLD_RULES: list[tuple[object, Function, dict[str, Any]]] = [
    (rules.Epsilon(), epsilon_rule, {}),
    (rules.ZPlus(), oracles.zplus_rule, {}),
    (rules.AlphaBeta(), oracles.alpha_beta_rule, {}),
    (rules.Gamma(), oracles.gamma_rule, {}),
    (rules.ZBox(-3.0, 3.0), oracles.zbox_rule, {"low": -3.0, "high": 3.0}),
    (rules.WSquare(), oracles.wsquare_rule, {}),
    (rules.Flat(), oracles.flat_rule, {}),
    (rules.ZPlus(bias=False), oracles.zplus_rule, {"bias": False}),
]


@pytest.mark.parametrize(("rule", "oracle", "options"), FOLD_RULES, ids=lambda v: "" if callable(v) else str(v))
@pytest.mark.parametrize("name", FOLDED)
def test_batch_norm_folded(name: str, rule: object, oracle: Function, options: dict[str, Any]) -> None:
    """The rule is applied to the composed map: norm(layer(x)) has one matrix and one bias."""
    make, shape = FOLDED[name]
    layer, norm = (randomize(module, i) for i, module in enumerate(make()))
    model = nn.Sequential(layer, norm)
    x = random(3, *shape)
    seed = seed_of(model(x))
    m = dense_map(model, shape, taps_of=layer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    relevance = explained(model, x, seed, (type(layer), rule))
    assert_relevance(relevance, through(oracle, m, x, seed, **options))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Branches(nn.Module):
    """Ways of using a convolution and its BatchNorm more than once."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv = randomize(nn.Conv2d(2, 2, 3, padding=1), 1)
        self.norm = randomize(nn.BatchNorm2d(2), 2)
        self.other = randomize(nn.BatchNorm2d(2), 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "conv is used beside the norm":
            h = self.conv(x)
            return self.norm(h) + h
        middle = self.norm(self.conv(x)).relu()
        if self.way == "conv is called twice, one norm":
            return self.conv(middle)
        if self.way == "conv is called twice, two norms":
            return self.other(self.conv(middle))
        if self.way == "conv and norm are called twice":
            return self.norm(self.conv(middle))
        return self.norm(middle)  # norm is called twice


def norm_relevance(norm: nn.Module, h: Tensor, relevance: Tensor) -> Tensor:
    channel = (1, -1, 1, 1)
    factor = ((norm.running_var + norm.eps).rsqrt() * norm.weight.detach()).reshape(channel)
    return factor * h * relevance / stabilize(norm(h).detach())


CONV_RULES: list[tuple[object, Function]] = [
    (rules.Epsilon(), epsilon_rule),
    (rules.ZPlus(), oracles.zplus_rule),
    (rules.Gamma(), oracles.gamma_rule),
]


@pytest.mark.parametrize(("rule", "oracle"), CONV_RULES, ids=lambda v: "" if callable(v) else str(v))
def test_batch_norm_beside_another_use_of_the_convolution(rule: object, oracle: Function) -> None:
    """norm(h) + h: what is added is h as it was, so norm is an affine map by itself."""
    model, x = Branches("conv is used beside the norm").eval(), random(2, 2, 4, 4)
    seed = random(2, 2, 4, 4, seed=1)
    h = model.conv(x).detach()
    y = model.norm(h).detach()
    ratio = seed / stabilize(y + h)
    at_h = h * ratio + norm_relevance(model.norm, h, y * ratio)
    expected = through(oracle, dense_map(model.conv, (2, 4, 4)), x, at_h)
    assert_relevance(explained(model, x, seed, (nn.Conv2d, rule)), expected)


@pytest.mark.parametrize(
    "way",
    [
        "conv is called twice, one norm",
        "conv is called twice, two norms",
        "conv and norm are called twice",
        "norm is called twice",
    ],
)
@pytest.mark.parametrize(("rule", "oracle"), CONV_RULES, ids=lambda v: "" if callable(v) else str(v))
def test_batch_norm_of_a_module_called_twice(rule: object, oracle: Function, way: str) -> None:
    """Each call of the convolution is its own map, composed with the norm that follows this call and no other."""
    model, x, seed = Branches(way).eval(), random(2, 2, 4, 4), random(2, 2, 4, 4, seed=1)
    shape = (2, 4, 4)
    with_norm = dense_map(nn.Sequential(model.conv, model.norm), shape, taps_of=model.conv)
    with_other = dense_map(nn.Sequential(model.conv, model.other), shape, taps_of=model.conv)
    middle = model.norm(model.conv(x)).detach().relu()
    at_middle = {
        "conv is called twice, one norm": lambda: through(oracle, dense_map(model.conv, shape), middle, seed),
        "conv is called twice, two norms": lambda: through(oracle, with_other, middle, seed),
        "conv and norm are called twice": lambda: through(oracle, with_norm, middle, seed),
        "norm is called twice": lambda: norm_relevance(model.norm, middle, seed),
    }[way]()
    expected = through(oracle, with_norm, x, at_middle)
    assert_relevance(explained(model, x, seed, (nn.Conv2d, rule)), expected)


def test_linear_on_tokens_before_batch_norm() -> None:
    """BatchNorm1d on (B, C, L) normalizes C, not the L features that the linear layer makes."""
    linear, norm = randomize(nn.Linear(5, 4), 1), randomize(nn.BatchNorm1d(4), 2)
    model, x = nn.Sequential(linear, norm).eval(), random(3, 4, 5)
    seed = random(3, 4, 4)
    h = linear(x).detach()
    factor = ((norm.running_var + norm.eps).rsqrt() * norm.weight.detach()).reshape(1, 4, 1)
    at_h = factor * h * seed / stabilize(norm(h).detach())
    expected = through(epsilon_rule, dense_map(linear, (4, 5)), x, at_h)
    explain = fxlrp.compile(model, rules="epsilon", example_inputs=x)
    assert_relevance(explain(x, seed=seed), expected, 1e-9)


def test_batch_norm_folded_for_vectors_refuses_tokens() -> None:
    """Without an example, or with one of vectors, folding is right; what comes later may not be like that."""
    model = nn.Sequential(randomize(nn.Linear(5, 4), 1), randomize(nn.BatchNorm1d(4), 2)).eval()
    for example in (None, random(3, 5)):
        explain = fxlrp.compile(model, example_inputs=example)
        assert "batch_norm" not in {node.target.__name__ for node in explain.nodes if node.op == "call_function"}
        with pytest.raises(InputError, match="example_inputs"):
            explain(random(3, 4, 5))


def test_batch_norm_of_other_size_than_the_linear_layer_is_not_folded() -> None:
    """7 features, 4 channels: the norm cannot run over the features, so tokens are explained without an example."""
    linear, norm = randomize(nn.Linear(5, 7), 1), randomize(nn.BatchNorm1d(4), 2)
    model, x, seed = nn.Sequential(linear, norm).eval(), random(3, 4, 5), random(3, 4, 7)
    h = linear(x).detach()
    factor = ((norm.running_var + norm.eps).rsqrt() * norm.weight.detach()).reshape(1, 4, 1)
    at_h = factor * h * seed / stabilize(norm(h).detach())
    expected = through(epsilon_rule, dense_map(linear, (4, 5)), x, at_h)
    assert_relevance(fxlrp.compile(model, rules="epsilon")(x, seed=seed), expected)


def test_batch_norm_before_the_convolution() -> None:
    """As in densenet: norm, ReLU, convolution; nothing to fold into."""
    norm, conv = randomize(nn.BatchNorm2d(2), 1), randomize(nn.Conv2d(2, 3, 3, padding=1), 2)
    model, x = nn.Sequential(norm, nn.ReLU(inplace=True), conv), random(2, 2, 4, 4)
    seed = random(2, 3, 4, 4)
    hidden = norm(x).detach().relu()
    at_norm = through(epsilon_rule, dense_map(conv, (2, 4, 4)), hidden, seed)
    assert_relevance(explained(model, x, seed), norm_relevance(norm, x, at_norm))


# ----------------------------------------------------------------------------------------------------
# Shape operations: relevance follows the elements, what was duplicated adds up

INDEX = torch.tensor([2, 0, 2])
GATHERED = torch.tensor([0, 3, 3]).view(1, 3, 1, 1).expand(3, 3, 2, 3)
SHAPE: dict[str, Function] = {
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "view": lambda x: x.view(x.size(0), 2, 2, -1),
    "torch.reshape": lambda x: torch.reshape(x, (-1, 6)),
    "flatten": lambda x: torch.flatten(x, 1),
    "method flatten": lambda x: x.flatten(start_dim=-2),
    "nn.Flatten": nn.Flatten(),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "nn.Unflatten": nn.Unflatten(1, (2, 2)),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "torch.permute": lambda x: torch.permute(x, (0, 3, 1, 2)),
    "transpose": lambda x: x.transpose(1, 2),
    "torch.transpose": lambda x: torch.transpose(x, -1, 1),
    "swapaxes": lambda x: x.swapaxes(1, 3),
    "movedim": lambda x: torch.movedim(x, 1, -1),
    "contiguous": lambda x: x.transpose(1, 2).contiguous().view(x.size(0), -1),
    "mT": lambda x: x.mT,
    "clone": lambda x: x.clone(),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "squeeze all": lambda x: x[:, 1:2].squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "torch.unsqueeze": lambda x: torch.unsqueeze(x, -1),
    "slice": lambda x: x[:, 1:3],
    "slice with a step": lambda x: x[:, ::2, :, 1:],
    "slice, ellipsis": lambda x: x[..., :2],
    "slice and new axis": lambda x: x[:, None, 1],
    "select by index": lambda x: x[:, 0],
    "select by negative index": lambda x: x[:, -1, ..., -2],
    "select": lambda x: x.select(1, 2),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "index with a tensor": lambda x: x[:, INDEX],
    "index with a list": lambda x: x[:, [3, 1, 1]],
    "index with two tensors": lambda x: x[:, INDEX, torch.tensor([0, 1, 0])],
    "index_select": lambda x: torch.index_select(x, 1, INDEX),
    "gather": lambda x: torch.gather(x, 1, GATHERED),
    "cat": lambda x: torch.cat([x, x[:, :2]], dim=1),
    "cat with itself": lambda x: torch.cat((x, x), 1),
    "cat with a constant": lambda x: torch.cat([torch.ones_like(x), x], dim=2),
    "stack": lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 0]], dim=1),
    "split": lambda x: torch.cat([torch.split(x, 1, dim=1)[3], x.split(3, dim=1)[1]], 1),
    "split by sizes": lambda x: x.split([1, 3], dim=1)[1],
    "chunk": lambda x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0]], -1),
    "unbind": lambda x: torch.stack([x.unbind(1)[2], x.unbind(1)[0]], 1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad with a value": lambda x: F.pad(x, (1, 1), value=3.0),
    "pad, cropping": lambda x: F.pad(x, (-1, 2)),
    "pad reflect": lambda x: F.pad(x, (2, 1, 1, 0), mode="reflect"),
    "pad replicate": lambda x: F.pad(x, (1, 2, 2, 0), mode="replicate"),
    "pad circular": lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"),
    "nn.ZeroPad2d": nn.ZeroPad2d((1, 0, 2, 0)),
    "nn.ReflectionPad2d": nn.ReflectionPad2d(1),
    "nn.ReplicationPad2d": nn.ReplicationPad2d(2),
    "nn.ConstantPad2d": nn.ConstantPad2d(1, 0.5),
    "roll": lambda x: torch.roll(x, shifts=(1, -1), dims=(2, 3)),
    "method roll": lambda x: x.roll(2, 3),
    "flip": lambda x: torch.flip(x, dims=[2, 3]),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "broadcast_to": lambda x: torch.broadcast_to(x[:, 1:2], x.shape),
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "tile": lambda x: torch.tile(x, (1, 1, 2, 1)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=2),
    "masked_fill": lambda x: x.masked_fill(torch.arange(3) > 1, -1.0),
    "where": lambda x: torch.where(torch.arange(3) > 0, x, torch.zeros_like(x)),
    "where with a number": lambda x: torch.where(torch.tensor([True, False, True]), x, 2.0),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "nn.PixelShuffle": nn.PixelShuffle(2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(F.pad(x, (0, 1)), 2),
    "F.channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "channel shuffle": lambda x: x.view(x.shape[0], 2, 2, 2, 3).transpose(1, 2).contiguous().view(x.shape),
}


@pytest.mark.parametrize("name", SHAPE)
def test_relevance_follows_the_elements(name: str) -> None:
    function, x = SHAPE[name], random(3, 4, 2, 3)
    seed = seed_of(function(x))
    model = nn.Sequential(function) if isinstance(function, nn.Module) else One(function)
    assert_relevance(explained(model, x, seed), move_back(function, x, seed), 1e-12)


WITH_CONSTANTS: dict[str, tuple[Function, dict[str, Tensor]]] = {
    "index": (lambda x, i: x[:, i], {"i": INDEX}),
    "index_select": (lambda x, i: x.index_select(1, i), {"i": INDEX}),
    "where": (lambda x, c: torch.where(c, x, torch.zeros(()).to(x)), {"c": random(4, 2, 3) > 0}),
    "masked_fill": (lambda x, c: x.masked_fill(c, 0.0), {"c": random(4, 2, 3) > 0}),
    "masked_fill_": (lambda x, c: x.clone().masked_fill_(c, 0.0), {"c": random(2, 3) > 0}),
    "cat": (lambda x, c: torch.cat([c.expand(x.shape[0], -1, -1, -1), x], dim=1), {"c": random(1, 2, 2, 3)}),
    "cat in the middle": (lambda x, c: torch.cat([x, c, x], dim=0), {"c": random(2, 4, 2, 3)}),
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_relevance_follows_the_elements_past_constants(name: str) -> None:
    function, constants = WITH_CONSTANTS[name]
    x = random(3, 4, 2, 3)
    seed = seed_of(function(x, *constants.values()))
    expected = move_back(lambda x: function(x, *constants.values()), x, seed)
    assert_relevance(explained(Constants(function, **constants), x, seed), expected, 1e-12)


MASK = torch.tensor([True, False, True])
JOINED: dict[str, Function] = {
    "cat": lambda a, b: torch.cat([a, b], dim=1),
    "cat, one twice": lambda a, b: torch.cat([b, a, b], dim=-1),
    "concat": lambda a, b: torch.concat((a, b), 1),
    "stack": lambda a, b: torch.stack([a, b], dim=2),
    "hstack": lambda a, b: torch.hstack([a, b]),
    "vstack": lambda a, b: torch.vstack([a, b]),
    "where": lambda a, b: torch.where(MASK, a, b),
    "method where": lambda a, b: b.where(MASK, a),
}


@pytest.mark.parametrize("name", JOINED)
def test_relevance_follows_the_elements_of_both(name: str) -> None:
    function, a, b = JOINED[name], random(3, 4, 3), random(3, 4, 3, seed=1)
    seed = seed_of(function(a, b))
    explain = fxlrp.compile(Two(function).eval(), rules="epsilon")
    found = explain(a, b, seed=seed)
    assert_relevance(found[0], move_back(lambda t: function(t, b), a, seed), 1e-12)
    assert_relevance(found[1], move_back(lambda t: function(a, t), b, seed), 1e-12)


def test_where_broadcasts_its_branches() -> None:
    a, b = random(3, 4, 3), random(3, 1, 1, seed=1)
    seed = random(3, 4, 3, seed=2)
    found = fxlrp.compile(Two(lambda a, b: torch.where(MASK, a, b)).eval(), rules="epsilon")(a, b, seed=seed)
    assert_relevance(found[0], seed * MASK)
    assert_relevance(found[1], (seed * ~MASK).sum((1, 2), keepdim=True))


def test_split_with_a_part_left_out() -> None:
    """Three parts, the middle one unused: its elements get nothing."""

    def function(x: Tensor) -> Tensor:
        first, _, last = x.chunk(3, dim=1)
        return first + last

    x, seed = random(2, 6, 3), random(2, 2, 3)
    ratio = seed / stabilize(x[:, :2] + x[:, 4:])
    expected = torch.cat([x[:, :2] * ratio, torch.zeros(2, 2, 3).double(), x[:, 4:] * ratio], dim=1)
    assert_relevance(explained(One(function), x, seed), expected)


def test_dense_concatenation() -> None:
    """As in densenet: every layer sees all before it."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = randomize(nn.Linear(3, 2), 1)
            self.second = randomize(nn.Linear(5, 2), 2)

        def forward(self, x: Tensor) -> Tensor:
            features = [x]
            features.append(self.first(torch.cat(features, 1)))
            features.append(self.second(torch.cat(features, 1)))
            return torch.cat(features, 1)

    model, x, seed = Dense(), random(3, 3), random(3, 7)
    h = torch.cat([x, model.first(x).detach()], 1)
    at_h = seed[:, :5] + through(epsilon_rule, dense_map(model.second, (5,)), h, seed[:, 5:])
    expected = at_h[:, :3] + through(epsilon_rule, dense_map(model.first, (3,)), x, at_h[:, 3:])
    assert_relevance(explained(model, x, seed), expected)


class Upsampling(nn.Module):
    """Down by a stride of 2 and up to the size that was, as in a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.down(x)), output_size=x.size()[2:])


def test_output_size_of_a_transposed_convolution() -> None:
    """LRP-0 is gradient times input; an odd and an even size need different output paddings."""
    model = Upsampling().double().eval()
    explain = fxlrp.compile(model, rules=presets.epsilon(epsilon=0.0))
    for size in (7, 8):
        x = random(2, 2, size, size).requires_grad_()
        out, weight = model(x), random(2, 2, size, size, seed=1)
        (gradient,) = torch.autograd.grad((out * weight).sum(), x)
        assert_relevance(explain(x.detach(), seed=(out * weight).detach()), (x * gradient).detach())

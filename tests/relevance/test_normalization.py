"""Normalization layers, and norms written out by hand, against closed forms in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transformer_oracles as oracle
from fxlrp import presets, rules
from helpers import FRONT_ENDS, Function, assert_close, epsilon_with, explained, of_one
from oracles import EPSILON, random, randomize
from transformer_oracles import CONVENTIONS, by_jacobian
from transformer_parts import SEED, X

WEIGHT, BIAS = random(6, seed=3), random(6, seed=4)


def normalized(x: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, oracle.Back]:
    return oracle.standardize(x, (-1,), WEIGHT, BIAS, 1e-5, epsilon)


def test_formula_of_a_norm_is_that_of_its_jacobian() -> None:
    """With sigma held constant the norm is affine, and its dense matrix gives the same numbers."""
    y, back = normalized(X)
    torch.testing.assert_close(y, F.layer_norm(X, (6,), WEIGHT, BIAS, 1e-5))
    sigma = (X.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    held = by_jacobian(lambda x: (x - x.mean(-1, keepdim=True)) / sigma * WEIGHT + BIAS, X, SEED)
    torch.testing.assert_close(back(SEED), held)
    rms, rms_back = oracle.standardize(X, (-1,), WEIGHT, 0.0, 1e-5, centred=False)
    torch.testing.assert_close(rms, F.rms_norm(X, (6,), WEIGHT, 1e-5))
    sigma = (X.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(rms_back(SEED), by_jacobian(lambda x: x / sigma * WEIGHT, X, SEED))


@pytest.mark.parametrize(
    ("preset", "capture"), [*((preset, "symbolic") for preset in CONVENTIONS), ("attnlrp", "export")]
)
def test_layer_norm(preset: str, capture: str) -> None:
    relevance = of_one(lambda x: F.layer_norm(x, (6,), WEIGHT, BIAS, 1e-5), X, SEED, preset, capture=capture)
    assert_close(relevance, normalized(X)[1](SEED))


@pytest.mark.parametrize("shape", [(6,), (3, 6)], ids=str)
@pytest.mark.parametrize("affine", ["weight and bias", "weight", "none"])
def test_layer_norm_module(shape: tuple[int, ...], affine: str) -> None:
    norm = randomize(nn.LayerNorm(shape, elementwise_affine=affine != "none", bias=affine != "weight", eps=0.01))
    assert isinstance(norm, nn.LayerNorm)
    assert_close(explained(norm, (X,), SEED), oracle.layer_norm(X, norm)[1](SEED))


def test_layer_norm_with_another_epsilon_rule() -> None:
    function = lambda x: F.layer_norm(x, (6,), WEIGHT, BIAS, 1e-5)  # noqa: E731
    relevance = of_one(function, X, SEED, epsilon_with(("layer_norm", rules.Epsilon(0.25))))
    assert_close(relevance, normalized(X, 0.25)[1](SEED))


@pytest.mark.parametrize("groups", [1, 2, 4], ids=str)
@pytest.mark.parametrize("plane", [(5,), (3, 2)], ids=str)
def test_group_norm(groups: int, plane: tuple[int, ...]) -> None:
    norm = randomize(nn.GroupNorm(groups, 4, eps=0.01))
    x, seed = random(2, 4, *plane), random(2, 4, *plane, seed=1)
    y, back = oracle.group_norm(x, groups, norm.weight.detach(), norm.bias.detach(), 0.01)
    torch.testing.assert_close(y, norm(x).detach())
    assert_close(explained(norm, (x,), seed), back(seed))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "plane"), [(nn.InstanceNorm1d, (5,)), (nn.InstanceNorm2d, (3, 2))])
def test_instance_norm(kind: type[nn.Module], plane: tuple[int, ...], affine: bool) -> None:
    norm: Any = randomize(kind(4, eps=0.01, affine=affine))
    x, seed = random(2, 4, *plane), random(2, 4, *plane, seed=1)
    weight, bias = (norm.weight.detach(), norm.bias.detach()) if affine else (torch.ones(4), torch.zeros(4))
    y, back = oracle.group_norm(x, 4, weight.double(), bias.double(), 0.01)
    torch.testing.assert_close(y, norm(x).detach())
    assert_close(explained(norm, (x,), seed), back(seed))


def test_instance_norm_with_running_statistics_is_affine() -> None:
    norm = randomize(nn.InstanceNorm1d(4, affine=True, track_running_stats=True))
    x, seed = random(2, 4, 5), random(2, 4, 5, seed=1)
    assert_close(explained(norm, (x,), seed), by_jacobian(norm, x, seed))


def rms_by_hand(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * WEIGHT


class HandWrittenRMSNorm(nn.Module):
    """As language models write it: computed in another type and cast back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT.clone())

    def forward(self, hidden: Tensor) -> Tensor:
        kind = hidden.dtype
        hidden = hidden.to(torch.float64)
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + 1e-5)).to(kind)


RMS_BY_HAND: dict[str, Function] = {
    "rsqrt": rms_by_hand,
    "square": lambda x: WEIGHT * (x * x.square().mean(dim=-1, keepdim=True).add(1e-5).rsqrt()),
    "sqrt": lambda x: x / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + 1e-5) * WEIGHT,
    "product": lambda x: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * WEIGHT,
    "statistic first": lambda x: torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * x * WEIGHT,
    "power": lambda x: x * (x.pow(2).mean(-1, keepdim=True) + 1e-5) ** -0.5 * WEIGHT,
    "norm": lambda x: x / (x.norm(dim=-1, keepdim=True) * 6**-0.5 + 1e-5) * WEIGHT,
}


@pytest.mark.parametrize("preset", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("name", RMS_BY_HAND)
def test_rms_norm_by_hand_passes_everything_on(name: str, preset: str) -> None:
    """The statistic is a constant factor, also where products are halved."""
    assert_close(of_one(RMS_BY_HAND[name], X, SEED, preset), SEED)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_rms_norm_module_by_hand(capture: str) -> None:
    assert_close(explained(HandWrittenRMSNorm(), (X,), SEED, "attnlrp", capture=capture), SEED)


@pytest.mark.parametrize("preset", CONVENTIONS)
def test_rms_norm(preset: str) -> None:
    expected = oracle.standardize(X, (-1,), WEIGHT, 0.0, 1e-5, centred=False)[1](SEED)
    assert_close(of_one(lambda x: F.rms_norm(x, (6,), WEIGHT, 1e-5), X, SEED, preset), expected)


def test_rms_norm_module_without_weight() -> None:
    norm = nn.RMSNorm((3, 6), eps=0.01, elementwise_affine=False)
    expected = oracle.standardize(X, (-2, -1), 1.0, 0.0, 0.01, centred=False)[1](SEED)
    assert_close(explained(norm, (X,), SEED), expected)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_both_rms_norms_agree_without_a_stabilizer(convention: str) -> None:
    preset = CONVENTIONS[convention].at(0.0).preset()
    native = of_one(lambda x: F.rms_norm(x, (6,), WEIGHT, 1e-5), X, SEED, preset)
    assert_close(native, of_one(rms_by_hand, X, SEED, preset))


LAYER_NORM_BY_HAND: dict[str, Function] = {
    "sqrt of variance": lambda x: (
        (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5) * WEIGHT + BIAS
    ),
    "mean of squares": lambda x: (
        WEIGHT * ((x - x.mean(-1, True)) * torch.rsqrt((x - x.mean(-1, True)).pow(2).mean(-1, True) + 1e-5)) + BIAS
    ),
    "channels first": lambda x: F.layer_norm(x.transpose(1, 2).transpose(1, 2), (6,), WEIGHT, BIAS, 1e-5),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", LAYER_NORM_BY_HAND)
def test_layer_norm_by_hand_without_a_stabilizer(name: str, convention: str) -> None:
    relevance = of_one(LAYER_NORM_BY_HAND[name], X, SEED, CONVENTIONS[convention].at(0.0).preset())
    assert_close(relevance, normalized(X, 0.0)[1](SEED))


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 4, 3, 2)])
def test_local_response_normalization_passes_everything_on(shape: tuple[int, ...], capture: str) -> None:
    """A quotient by a statistic, for every stabilizer."""
    x, seed = random(*shape), random(*shape, seed=1)

    def normed(x: Tensor) -> Tensor:
        return F.local_response_norm(x, 3, alpha=0.5)

    assert_close(of_one(normed, x, seed, presets.epsilon(0.5), capture=capture), seed)


def test_l2_normalization_passes_everything_on() -> None:
    assert_close(of_one(lambda x: F.normalize(x, dim=-1), X, SEED), SEED)


STATISTICS: dict[str, Function] = {
    "Gemma": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + WEIGHT),
    "T5": lambda x: WEIGHT * (x * torch.rsqrt(x.to(torch.float64).pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype),
    "ScaleNorm": lambda x: 2.0 * x / torch.norm(x, dim=-1, keepdim=True).clamp(min=1e-5),
    "vector_norm": lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True),
    "F.normalize": lambda x: F.normalize(x, dim=-1) * 6**0.5 * WEIGHT,
    "sum of squares": lambda x: x / (x * x).sum(-1, keepdim=True).sqrt(),
    "reciprocal": lambda x: x * (x.square().mean(-1, keepdim=True) + 1e-6).sqrt().reciprocal(),
    "one over": lambda x: x * (1.0 / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()),
    "largest": lambda x: x / x.abs().amax(dim=-1, keepdim=True),
    "pixel norm": lambda x: x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8),
    "response norm": lambda x: x * (x.norm(dim=1, keepdim=True) / (x.norm(dim=1, keepdim=True).mean(-1, True) + 1e-6)),
    "standard deviation": lambda x: x / (x.std(-1, keepdim=True) + 1e-6),
}


@pytest.mark.parametrize("preset", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("name", STATISTICS)
def test_statistic_takes_nothing(name: str, preset: str) -> None:
    """A factor or divisor that is a statistic of the values is a constant, also where products are halved."""
    assert_close(of_one(STATISTICS[name], X, SEED, preset), SEED)


STANDARDIZED: dict[str, tuple[Function, Function]] = {
    "standard deviation": (
        lambda x: WEIGHT * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + BIAS,
        lambda x: x.std(-1, keepdim=True) + 1e-6,
    ),
    "var": (
        lambda x: WEIGHT * ((x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()) + BIAS,
        lambda x: (x.var(-1, keepdim=True) + 1e-6).sqrt(),
    ),
    "var_mean": (
        lambda x: (
            (x - torch.var_mean(x, -1, unbiased=False, keepdim=True)[1])
            * torch.rsqrt(torch.var_mean(x, -1, unbiased=False, keepdim=True)[0] + 1e-6)
            * WEIGHT
            + BIAS
        ),
        lambda x: (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt(),
    ),
    "mean of squares minus square of mean": (
        lambda x: (
            (x - x.mean(-1, keepdim=True))
            / torch.sqrt((x**2).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2 + 1e-6)
            * WEIGHT
            + BIAS
        ),
        lambda x: (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt(),
    ),
}


@pytest.mark.parametrize("preset", ["epsilon", "attnlrp"])
@pytest.mark.parametrize("name", STANDARDIZED)
def test_standardization_by_hand_without_a_stabilizer(name: str, preset: str) -> None:
    function, statistic = STANDARDIZED[name]
    sigma = statistic(X)
    expected = by_jacobian(lambda x: WEIGHT * (x - x.mean(-1, keepdim=True)) / sigma + BIAS, X, SEED, 0.0)
    found = of_one(function, X, SEED, CONVENTIONS[preset].at(0.0).preset())
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_a_norm_over_the_sizes_of_a_value(capture: str) -> None:
    """The number of dimensions is not known when the step is emitted."""
    written = of_one(lambda x: F.layer_norm(x, x.size()[1:]) + F.rms_norm(x, x.shape[-1:]), X, SEED, capture=capture)
    assert_close(written, of_one(lambda x: F.layer_norm(x, (3, 6)) + F.rms_norm(x, (6,)), X, SEED, capture=capture))

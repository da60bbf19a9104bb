"""Normalization layers in eval mode against their matrices, in float64.

A tiny epsilon where a rule may take one step or several (centring, scaling): they agree as epsilon goes to 0, and
every z here is far from it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxlrp import rules
from helpers import epsilon_with, explained
from oracles import (
    One,
    assert_relevance,
    dense_map,
    epsilon_rule,
    random,
    randomize,
    stabilize,
    through,
)

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
    found = explained(nn.Sequential(norm), (x,), seed, epsilon_with((nn.LayerNorm, rules.Epsilon(TINY))))
    assert_relevance(found, expected, 1e-9)
    called = One(lambda x: F.layer_norm(x, shape, eps=1e-3))
    expected = normalized_relevance(groups, torch.ones(()), torch.zeros(()), at_groups, 1e-3, TINY)
    found = explained(called, (x,), seed, epsilon_with(("layer_norm", rules.Epsilon(TINY))))
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
    found = explained(nn.Sequential(norm), (x,), seed, epsilon_with((nn.GroupNorm, rules.Epsilon(TINY))))
    assert_relevance(found, expected.reshape(x.shape), 1e-9)


INSTANCE_NORMS = [(nn.InstanceNorm1d, (7,)), (nn.InstanceNorm2d, (2, 3)), (nn.InstanceNorm3d, (2, 2, 2))]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("kind", "plane"), INSTANCE_NORMS, ids=lambda v: getattr(v, "__name__", ""))
def test_instance_norm(kind: type[nn.Module], plane: tuple[int, ...], affine: bool) -> None:
    norm: Any = randomize(kind(4, affine=affine))
    x, seed = random(3, 4, *plane) + 0.5, random(3, 4, *plane, seed=1)
    factor = per_channel(norm.weight, x, 4) if affine else torch.ones(())
    offset = per_channel(norm.bias, x, 4) if affine else torch.zeros(())
    expected = normalized_relevance(x.reshape(3, 4, -1), factor, offset, seed.reshape(3, 4, -1), norm.eps, TINY)
    found = explained(nn.Sequential(norm), (x,), seed, epsilon_with((kind, rules.Epsilon(TINY))))
    assert_relevance(found, expected.reshape(x.shape), 1e-9)


def test_instance_norm_with_running_statistics() -> None:
    """In eval mode these are constants: an affine map, as BatchNorm's."""
    norm = randomize(nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    x, seed = random(3, 4, 2, 3), random(3, 4, 2, 3, seed=1)
    m = dense_map(norm, (4, 2, 3), taps_of=nn.Identity())
    assert_relevance(explained(nn.Sequential(norm), (x,), seed), through(epsilon_rule, m, x, seed))


@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(affine: bool) -> None:
    """y = factor x / rms, element by element: R_x = y / s(y) R."""
    norm = randomize(nn.RMSNorm(6, eps=1e-3, elementwise_affine=affine))
    x, seed = random(3, 4, 6), random(3, 4, 6, seed=1)
    y = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-3) * (norm.weight.detach() if affine else 1.0)
    assert_relevance(explained(nn.Sequential(norm), (x,), seed), y * seed / stabilize(y))
    found = explained(nn.Sequential(norm), (x,), seed, epsilon_with((nn.RMSNorm, rules.Epsilon(0.25))))
    assert_relevance(found, y * seed / stabilize(y, 0.25))

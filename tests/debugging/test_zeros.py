"""Relevance that arrives at sums of zeros, which have no contribution to pass it on to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from oracles import random


class Decay(nn.Module):
    """A weight for each position, decaying with the sum of all values before it: 1 at the first."""

    def forward(self, x: Tensor) -> Tensor:
        before = x.masked_fill(torch.tensor([False, False, True]), 0.0).flip(1).cumsum(1).flip(1)
        return before.exp().sum(1, keepdim=True)


def test_the_relevance_of_a_sum_of_zeros_is_shown() -> None:
    x = random(2, 3)
    explain = fxlrp.compile(Decay().eval(), presets.epsilon(1e-12), example_inputs=x)
    (cumsum,) = (node for node in explain.balance(x, target=0).nodes if node.operation == "cumsum")
    # exp(0) = 1 of each sample.
    assert cumsum.zeros == pytest.approx(2.0)
    assert cumsum.created == pytest.approx(-2.0)
    assert explain.debug(x, target=0)[cumsum.node].zeros == cumsum.zeros
    others = [node.zeros for node in explain.balance(x, target=0).nodes if node.node != cumsum.node]
    assert others and not any(others)


class Differences(nn.Module):
    """The differences of neighbours in two dimensions: two results of one operation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(torch.gradient(x, dim=(1, 2)), 1).flatten(1)


def test_the_relevance_of_zeros_is_that_of_all_results() -> None:
    x = random(2, 1, 6).expand(2, 4, 6).clone()
    explain = fxlrp.compile(Differences().eval(), presets.epsilon(1e-12), example_inputs=x)
    seed = torch.ones(2, 48)
    (found,) = (node for node in explain.balance(x, seed=seed).nodes if node.operation == "gradient")
    # All differences in the first dimension are zero, and none in the second.
    assert found.zeros == pytest.approx(2 * 24)
    assert explain.debug(x, seed=seed)[found.node].zeros == found.zeros

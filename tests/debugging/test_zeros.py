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

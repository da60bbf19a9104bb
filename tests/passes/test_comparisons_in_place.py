"""A comparison in place keeps the type of the value that it changes: numbers become 0 and 1."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from oracles import assert_relevance, random


class Rectified(nn.Module):
    """A ReLU by a comparison in place, scaled by the share of positive elements."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        positive = x.clone()
        positive.gt_(0)
        share = positive.mean(1, keepdim=True)
        out: Tensor = self.head(x * positive * share)
        return out


@pytest.mark.parametrize("capture", ("symbolic", "export"))
def test_it_is_gradient_times_input(capture: Literal["symbolic", "export"]) -> None:
    """The comparison is constant almost everywhere."""
    torch.manual_seed(0)
    model, x = Rectified().double().eval(), random(2, 6)
    explain = fxlrp.compile(model, presets.epsilon(0.0), example_inputs=x, capture=capture)
    positive = (x > 0).double()
    expected = x * positive * positive.mean(1, keepdim=True) * model.head.weight[1]
    assert_relevance(explain(x, target=1), expected, 1e-9)
    assert_relevance(explain(x, target=1, return_output=True)[1], model(x), 1e-12)

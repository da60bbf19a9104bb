"""Where NaN or infinity first appears."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from debugged_models import small
from fxlrp import presets
from fxlrp.debugging.non_finite import NotFinite
from fxlrp.debugging.relevances import Relevances
from helpers import FRONT_ENDS
from oracles import One, random, randomize


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize(("layer", "code"), [("conv", "torch.relu(self.conv(x))"), ("head", "self.head(x.flatten(1))")])
def test_a_parameter_that_is_not_finite_is_found(layer: str, code: str, capture: Any) -> None:
    model, x = small(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model, presets.epsilon(), capture=capture, example_inputs=x)
    assert explain.debug(x).first_bad is None
    with torch.no_grad():
        model.get_parameter(f"{layer}.weight")[0, 0] = math.nan
    found = explain.debug(x, seed=torch.ones_like if layer == "head" else None)
    bad = found.first_bad
    assert bad is not None and (bad.node, bad.module) == (layer, layer)
    assert bad.source.endswith(code) and "debugged_models.py:" in bad.source
    assert bad.reads[f"{layer}_weight"].nan == (1 if layer == "head" else 9)
    assert bad.value == NotFinite(nan=2 * 16 if layer == "conv" else 2)
    assert bad.what == ("its value" if layer == "conv" else "the relevance that it passes on")
    assert str(bad) in str(found)


def test_an_exploding_division_is_found_where_it_happens() -> None:
    class Cancels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.last = nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) * 1.0)

    model, x = randomize(Cancels().double().eval()), random(2, 3)
    with torch.no_grad():
        model.last.weight[0] = 1e-300
    # Every number is finite, but not 1e300 / 1e-300.
    huge = torch.tensor([[1e300, 0.0]] * 2, dtype=torch.float64)
    found = fxlrp.compile(model, presets.epsilon(0.0)).debug(x, seed=huge)
    bad = found.first_bad
    assert bad is not None and bad.node == "last" and bad.what == "the relevance that it passes on"
    assert not bad.value and not bad.reads
    assert found["last"].received.not_finite == NotFinite() and found["mul"].received.not_finite
    assert bad.source.endswith("return self.last(self.first(x) * 1.0)")


def test_a_seed_and_an_input_that_are_not_finite_are_found() -> None:
    model, x = small(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model)
    bad = explain.debug(x, seed=lambda out: out * math.inf).first_bad
    assert bad is not None and (bad.node, bad.what, bad.value) == ("head", "the seed", NotFinite())
    x[1, 0, 2, 2] = math.nan
    bad = explain.debug(x).first_bad
    assert bad is not None and (bad.node, bad.what, bad.found) == ("x", "its value", NotFinite(nan=1))


def test_relevance_that_overflows_where_it_adds_up_is_found() -> None:
    def twice(x: Tensor) -> Tensor:
        x = torch.relu(x)
        return torch.cat([x, x], 1)

    explain = fxlrp.compile(One(twice).eval())
    found = explain.debug(torch.ones(1, 3, dtype=torch.half), seed=lambda out: torch.full_like(out, 6e4))
    bad = found.first_bad
    assert bad is not None and (bad.node, bad.what, bad.found.inf) == ("relu", "the relevance that it receives", 3)


@pytest.mark.parametrize("layer", ["query", "values"])
def test_infinities_of_a_mask_are_no_error_and_do_not_hide_one(layer: str) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Linear(4, 4)
            self.values = nn.Linear(4, 4)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            query = self.query(x)
            values = self.values(x)
            attended = torch.softmax(query @ x.transpose(1, 2) + mask, -1) @ values
            return attended.mean(1)

    model, x = randomize(Masked().double().eval()), random(2, 3, 4)
    mask = torch.full((3, 3), -math.inf, dtype=torch.float64).triu(1)
    explain = fxlrp.compile(model, "cplrp")
    assert explain.debug(x, mask).first_bad is None
    with torch.no_grad():
        model.get_parameter(f"{layer}.bias")[0] = math.nan
    bad = explain.debug(x, mask).first_bad
    assert bad is not None and bad.node == layer and bad.source.endswith(f"{layer} = self.{layer}(x)")


def test_counts_of_numbers_that_are_not_finite() -> None:
    numbers = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    assert NotFinite.of(numbers) == NotFinite(1, 2) and str(NotFinite.of(numbers)) == "1 NaN, 2 Inf"
    assert NotFinite.of((numbers, [numbers.half()], 3, torch.tensor(1))) == NotFinite(2, 4)
    assert not NotFinite.of(torch.zeros(0)) and str(NotFinite()) == ""


def test_minimum_and_maximum_leave_nan_aside() -> None:
    found: Relevances = fxlrp.compile(One(torch.relu).eval()).debug(
        torch.ones(1, 3), seed=torch.tensor([[math.nan, -2.0, 5.0]])
    )
    received = found["x"].received
    assert (received.min, received.max) == (-2.0, 5.0) and math.isnan(received.sum)

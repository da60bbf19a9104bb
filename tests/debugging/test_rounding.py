"""How much of an explanation is rounding: against values by hand, and explanations in other precisions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from fxlrp.debugging.rounding import Rounding


def dense(*rows: tuple[float, ...]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight = nn.Parameter(torch.tensor(rows))
    return layer


def rounding_of(explain: fxlrp.Explainer, x: Tensor, **asked: object) -> Rounding:
    found = explain.debug(x, **asked).rounding  # type: ignore[arg-type]
    assert found is not None
    return found


def cancelling(factor: float) -> nn.Sequential:
    """``factor * x_0 - x_1``; what the first layer rounds off is all that is left in the second if 3 is the factor."""
    return nn.Sequential(dense((factor, 0.0), (0.0, 1.0)), dense((1.0, -1.0))).eval()


X = torch.tensor([[0.1, 0.3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_error_of_a_sum_that_cancels_is_that_of_its_quotient(dtype: torch.dtype) -> None:
    x, epsilon = X.to(dtype), 1e-2
    model = cancelling(3.0 + 2**-6).to(dtype)
    seed = torch.ones(1, 1, dtype=dtype)
    found = rounding_of(fxlrp.compile(model, presets.epsilon(epsilon)), x, seed=seed)
    with torch.no_grad():
        z, wide = float(model(x)), float(model.double()(x.double()))
    # R_i = x_i w_i / (z + epsilon sgn z): but for the rounding of the factors, the denominators differ.
    expected = abs((wide + math.copysign(epsilon, wide)) / (z + math.copysign(epsilon, z)) - 1)
    assert found.error == pytest.approx(expected, rel=0.01, abs=2 * torch.finfo(dtype).eps)
    assert found.cosine == pytest.approx(1.0, abs=1e-4)


def test_a_sum_that_cancels_to_its_rounding_error_is_noise() -> None:
    explain = fxlrp.compile(cancelling(3.0), presets.epsilon(1e-12))
    found = rounding_of(explain, X, seed=torch.ones(1, 1))
    assert found.is_visible and found.is_dominant
    assert "rounding dominates" in str(found) and "a larger epsilon" in str(found)


def test_a_larger_epsilon_reduces_it_as_the_message_says() -> None:
    small, large = (
        rounding_of(fxlrp.compile(cancelling(3.0 + 2**-20), presets.epsilon(epsilon)), X, seed=torch.ones(1, 1))
        for epsilon in (1e-12, 1e-2)
    )
    assert small.is_visible and not small.is_dominant
    assert "rounding is visible" in str(small)
    assert not large.is_visible
    assert "rounding is small" in str(large)


def test_nothing_is_lost_where_no_contributions_cancel() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False)]
    for layer in layers:
        layer.weight.data.abs_()
    found = rounding_of(fxlrp.compile(nn.Sequential(*layers).eval(), "epsilon"), torch.rand(3, 16), target=1)
    assert found.error < 1e-6
    assert found.cosine == pytest.approx(1.0)


def test_the_node_where_contributions_cancel_is_named() -> None:
    model = nn.Sequential(dense((1.0, 0.0), (0.0, 1.0)), *cancelling(3.0)).eval()
    found = rounding_of(fxlrp.compile(model, presets.epsilon(1e-12)), X, seed=torch.ones(1, 1))
    assert found.losses[0].location.module == "2"
    assert "module 2" in str(found)


@pytest.mark.parametrize("preset", ["epsilon", "default", "epsilon_alpha2_beta1"])
def test_it_is_the_distance_to_an_explanation_of_the_model_in_double_precision(preset: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(1), nn.Linear(24, 3)).eval()
    x = torch.randn(2, 2, 6, 6)
    explain = fxlrp.compile(model, preset, optimize=False)
    seed = torch.ones(2, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found, relevance = rounding_of(explain, x, seed=seed), explain(x, seed=seed)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    wide = fxlrp.compile(model.double(), preset, optimize=False)(x.double(), seed=seed.double())
    assert found.error == pytest.approx(float((relevance.double() - wide).norm() / wide.norm()), rel=1e-3)


class NamesTypes(nn.Module):
    """Cancels in a type that it names."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.to(torch.float32).split(1, dim=1)
        return first * 3 - second * torch.ones(1, 1, dtype=torch.float32)


def test_types_that_the_model_names_are_widened_too() -> None:
    found = rounding_of(fxlrp.compile(NamesTypes().eval(), presets.epsilon(1e-12)), X, seed=torch.ones(1, 1))
    assert not found.problem
    assert found.is_dominant


def test_double_precision_is_not_compared() -> None:
    found = rounding_of(fxlrp.compile(cancelling(3.0).double()), X.double(), target=0)
    assert math.isnan(found.error) and not found.is_visible
    assert str(found).endswith("because it is in double precision")


def test_a_step_without_double_precision_is_named() -> None:
    def single_only(x: Tensor, relevance: Tensor) -> Tensor:
        if x.dtype is torch.float64:
            raise TypeError("this kernel has no double precision")
        return relevance

    rule = fxlrp.rules.Custom(single_only)
    explain = fxlrp.compile(nn.Sequential(dense((3.0, 1.0)), nn.ReLU()).eval(), [(nn.ReLU, rule)])
    found = rounding_of(explain, X, target=0)
    assert "this kernel has no double precision" in found.problem


def test_relevance_that_is_not_finite_is_not_compared() -> None:
    found = rounding_of(fxlrp.compile(cancelling(3.0)), X, seed=torch.tensor([[math.inf]]))
    assert found.problem == "it is not finite"


def test_the_comparison_can_be_left_out() -> None:
    relevances = fxlrp.compile(cancelling(3.0)).debug(X, target=0, rounding=False)
    assert relevances.rounding is None
    assert "rounding" not in str(relevances)

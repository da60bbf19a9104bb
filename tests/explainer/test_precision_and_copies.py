"""Autocast, half precision, determinism, and copies for other devices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo

PRESETS = ("epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1")


def model_and_images() -> tuple[nn.Module, Tensor]:
    model, x = zoo.calibrated("resnet18")
    return model.float(), x.float()


def correlation(found: Tensor, expected: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([found.double().flatten(), expected.double().flatten()]))[0, 1])


def gradient_times_input(model: nn.Module, x: Tensor) -> Tensor:
    (relevance,) = zoo.gradient_times_input(model, x, select=lambda out: out[:, 1].sum())
    return relevance


def in_half(model: nn.Module, x: Tensor, how: str) -> Callable[[Callable[[nn.Module, Tensor], Tensor]], Tensor]:
    """Runs something in bfloat16, by autocast or by weights."""

    def run(explain: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        if how == "autocast":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return explain(model, x)
        return explain(copy.deepcopy(model).bfloat16(), x.bfloat16())

    return run


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_costs_no_more_than_it_costs_a_gradient(how: str) -> None:
    model, x = model_and_images()
    run = in_half(model, x, how)
    found = run(lambda model, x: fxlrp.compile(model, "epsilon")(x, target=1))
    assert found.isfinite().all()
    ours = correlation(found, fxlrp.compile(model, "epsilon")(x, target=1))
    gradients = correlation(run(gradient_times_input), gradient_times_input(model, x))
    assert 1 - ours < 1.5 * (1 - gradients)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["autocast", "weights"])
@pytest.mark.parametrize("preset", ["epsilon_plus_flat", "epsilon_alpha2_beta1"])
def test_bfloat16_keeps_the_picture(preset: str, how: str) -> None:
    model, x = model_and_images()
    found = in_half(model, x, how)(lambda model, x: fxlrp.compile(model, preset)(x, target=1))
    assert found.isfinite().all()
    assert correlation(found, fxlrp.compile(model, preset)(x, target=1)) > 0.9


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("preset", PRESETS)
def test_deterministic_algorithms(preset: str) -> None:
    model, x = model_and_images()
    explain = fxlrp.compile(model, preset)
    assert torch.equal(explain(x, target=1), explain(x, target=1))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_copy_has_a_model_of_its_own(preset: str) -> None:
    """As `copy.deepcopy(explain).to(device)` makes one for each device."""
    model, x = model_and_images()
    explain = fxlrp.compile(model, preset)
    expected = explain(x, target=1)
    made = copy.deepcopy(explain)
    assert torch.equal(made(x, target=1), expected)
    shared = {p.data_ptr() for p in explain.parameters()} & {p.data_ptr() for p in made.parameters()}
    assert not shared
    made.to(torch.float64)
    assert made(x.double(), target=1).dtype == torch.float64
    assert next(model.parameters()).dtype == torch.float32
    assert torch.equal(explain(x, target=1), expected)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(0.5)
    assert not torch.allclose(made(x.double(), target=1).float(), expected)
    assert torch.equal(explain(x, target=1), expected)

"""Losses that are written as compositions, beside those of torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fxlrp
from fxlrp import losses
from fxlrp.errors import InputError
from oracles import One


@pytest.fixture
def certain() -> tuple[Tensor, Tensor]:
    """Probabilities, among them 0 and 1, with targets, among them 0 and 1."""
    probabilities = torch.tensor([0.0, 1e-60, 1e-30, 0.3, 0.5, 1 - 1e-9, 1.0], dtype=torch.float64)
    targets = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    given, wanted = torch.meshgrid(probabilities, targets, indexing="ij")
    return given.clone(), wanted.clone()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_binary_cross_entropy(certain: tuple[Tensor, Tensor], dtype: torch.dtype, reduction: str) -> None:
    given, wanted = (each.to(dtype) for each in certain)
    weight = torch.linspace(0.5, 2.0, given.numel(), dtype=dtype).reshape(given.shape)
    found = losses.binary_cross_entropy(given, wanted, weight, reduction=reduction)
    torch.testing.assert_close(found, F.binary_cross_entropy(given, wanted, weight, reduction=reduction))


def test_its_derivative_by_the_target_is_finite(certain: tuple[Tensor, Tensor]) -> None:
    """The loss is linear in the target, so the derivative is the difference between the targets 1 and 0."""
    given, wanted = certain
    wanted.requires_grad_()
    (found,) = torch.autograd.grad(losses.binary_cross_entropy(given, wanted, reduction="sum"), wanted)
    of_one, of_zero = (
        F.binary_cross_entropy(given, torch.full_like(given, target), reduction="none") for target in (1.0, 0.0)
    )
    torch.testing.assert_close(found, of_one - of_zero)


def test_its_derivative_by_the_input_is_that_of_torch(certain: tuple[Tensor, Tensor]) -> None:
    """Where it is neither 0 nor 1; there it is finite."""
    given, wanted = certain
    given.requires_grad_()
    (found,) = torch.autograd.grad(losses.binary_cross_entropy(given, wanted, reduction="sum"), given)
    (expected,) = torch.autograd.grad(F.binary_cross_entropy(given, wanted, reduction="sum"), given)
    inside = (given > 1e-12) & (given < 1)
    torch.testing.assert_close(found[inside], expected[inside])
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("outside", [-0.5, 1.5, float("nan")])
def test_what_is_not_a_probability_is_an_error(outside: float) -> None:
    """As it is in torch, and in the program of an explanation."""
    given = torch.full((2, 3), 0.5)
    explain = fxlrp.compile(One(lambda x: F.binary_cross_entropy(x, torch.ones(2, 3), reduction="none")).eval())
    assert explain(given, target=1).shape == (2, 3)
    given[0, 0] = outside
    with pytest.raises(InputError, match="between 0 and 1"):
        explain(given, target=1)

"""Models that compute with torch.distributions, which check their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

import fxlrp
from fxlrp.errors import CaptureError
from oracles import One, assert_relevance, random

X = random(3, 6, seed=2)


def mixture(x: Tensor) -> Tensor:
    weights, means, scales = x.chunk(3, -1)
    density = MixtureSameFamily(Categorical(logits=weights), Normal(means, F.softplus(scales)))
    return density.log_prob(torch.tensor(0.3, dtype=x.dtype))[:, None]


def prior(x: Tensor) -> Tensor:
    means, scales = x.chunk(2, -1)
    return kl_divergence(Normal(means, scales.exp()), Normal(torch.zeros_like(means), torch.ones_like(scales)))


def covariance(x: Tensor) -> Tensor:
    factor = torch.diag_embed(F.softplus(x[:, 3:]))
    return MultivariateNormal(x[:, :3], scale_tril=factor).log_prob(torch.ones(3, dtype=x.dtype))[:, None]


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    """TorchDynamo turns the checks off for the rest of the process."""
    checks = Distribution._validate_args
    Distribution.set_default_validate_args(True)
    yield
    Distribution.set_default_validate_args(checks)


@pytest.mark.parametrize("function", [mixture, prior, covariance])
def test_the_gradient_is_that_of_autograd(function: Callable[[Tensor], Tensor]) -> None:
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(x)[:, 0].sum(), x)
    explain = fxlrp.compile(One(function).eval(), "gradient", example_inputs=X[:2])
    assert_relevance(explain(X, target=0), X * expected, 1e-10)


def test_checks_are_turned_off_during_capture_only() -> None:
    fxlrp.compile(One(prior).eval(), example_inputs=X)
    assert Distribution._validate_args
    with pytest.raises(ValueError, match="to satisfy the constraint"):
        Normal(torch.zeros(2), -torch.ones(2))


def test_a_check_that_is_asked_for_cannot_be_followed() -> None:
    def checked(x: Tensor) -> Tensor:
        return Normal(x, x.exp(), validate_args=True).log_prob(torch.zeros_like(x))

    with pytest.raises(CaptureError, match="validate_args=True"):
        fxlrp.compile(One(checked).eval(), example_inputs=X)
    assert Distribution._validate_args

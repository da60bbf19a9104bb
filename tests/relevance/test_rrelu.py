"""RReLU, which in eval mode is a leaky ReLU with the mean of its slopes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxlrp


@pytest.mark.parametrize("rule", [fxlrp.rules.Backpropagation(), fxlrp.rules.Gradient()])
@pytest.mark.parametrize("slopes", [(1 / 8, 1 / 3), (0.2, 0.6)])
def test_rrelu_has_the_derivative_of_a_leaky_relu(rule: fxlrp.rules.Rule, slopes: tuple[float, float]) -> None:
    """The derivative is that of the mean slope, and 1 where the input is positive."""
    x = torch.tensor([[-2.0, 3.0, -0.5]])
    r = torch.tensor([[1.0, 2.0, 3.0]])
    slope = sum(slopes) / 2
    derivative = torch.tensor([[slope, 1.0, slope]])
    # R_x = J R, and for the gradient R_x = x J (R / y), which is R for a function without an offset.
    expected = derivative * r if isinstance(rule, fxlrp.rules.Backpropagation) else r
    explain = fxlrp.compile(nn.RReLU(*slopes).eval(), [("rrelu", rule)], example_inputs=(x,))
    torch.testing.assert_close(explain(x, seed=r), expected)


@pytest.mark.parametrize("preset", ["guided_backprop", "deconvnet", "gradient"])
def test_presets_of_derivatives_take_rrelu(preset: Any) -> None:
    """The explanation is that of the same network with a leaky ReLU of the mean slope."""
    torch.manual_seed(0)
    first, last, x = nn.Linear(4, 5), nn.Linear(5, 3), torch.randn(2, 4)
    twin = nn.Sequential(first, nn.LeakyReLU((0.2 + 0.6) / 2), last).eval()
    model = nn.Sequential(first, nn.RReLU(0.2, 0.6), last).eval()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(twin(leaf)[:, 1].sum(), leaf)
    expected = gradient * x if preset == "gradient" else gradient
    torch.testing.assert_close(fxlrp.compile(model, preset)(x, target=1), expected)


def test_a_captured_rrelu_is_explained() -> None:
    """A program of ``torch.export`` has another spelling of the same function."""

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[0] > 100 and bool(x.sum() > 0):
                return x
            return nn.functional.rrelu(x, 0.2, 0.6)

    x = torch.tensor([[-2.0, 3.0, -0.5], [1.0, -1.0, 2.0]])
    explain = fxlrp.compile(Branching().eval(), "guided_backprop", example_inputs=(x,), capture="export")
    torch.testing.assert_close(explain(x, seed=torch.ones(2, 3)), torch.where(x > 0, 1.0, 0.4))

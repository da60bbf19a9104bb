"""BatchNorm inside an autocast region is folded in the type of the convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp


class Autocast(nn.Module):
    def __init__(self, inside: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.inside = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), inside
        with torch.no_grad():
            self.norm.weight.uniform_(1, 2)
            self.norm.running_var.uniform_(1, 2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = self.conv(x)
            x = self.norm(x) if self.inside else x
        x = x if self.inside else self.norm(x)
        return x.float().mean((2, 3))


@pytest.mark.parametrize("inside", [True, False])
def test_batch_norm_after_a_convolution_under_autocast(inside: bool) -> None:
    model, x = Autocast(inside).eval(), torch.rand(2, 3, 6, 6)
    at = x.clone().requires_grad_()
    # Without biases and means the model is linear, so that LRP-0 is gradient times input, here to bfloat16.
    (gradient,) = torch.autograd.grad(model(at)[:, 1].sum(), at)
    explain = fxlrp.compile(model, fxlrp.presets.epsilon(0.0), example_inputs=x)
    relevance = explain(x, target=1)
    assert "norm" not in {node.name for node in explain.nodes}
    torch.testing.assert_close(relevance.float(), x * gradient, rtol=0.1, atol=0.05 * float((x * gradient).abs().max()))

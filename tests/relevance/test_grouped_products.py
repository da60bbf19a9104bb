"""Products of groups of rows with the matrices of experts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from oracles import assert_relevance


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)))
        self.ends = nn.Buffer(torch.tensor([3, 3, 6], dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return F.grouped_mm(x, self.weight, offs=self.ends)


def test_each_row_goes_back_through_the_matrix_of_its_expert() -> None:
    # The kernel for a CPU takes only this type where torch traces it.
    model = Experts().bfloat16().eval()
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    explain = fxlrp.compile(model, fxlrp.presets.epsilon(1e-9), example_inputs=x)
    seed = torch.randn(6, 8, generator=torch.Generator().manual_seed(2)).bfloat16()
    weight = model.weight.detach()[[0, 0, 0, 2, 2, 2]].double()
    contributions = x[:, :, None].double() * weight
    expected = (contributions / contributions.sum(1, keepdim=True) * seed[:, None]).sum(2)
    assert_relevance(explain(x, seed=seed).double(), expected, 5e-2)


def test_experts_of_transformers() -> None:
    moe = pytest.importorskip("transformers.integrations.moe")
    assert moe is not None

    class OfTransformers(Experts):
        def forward(self, x: Tensor) -> Tensor:
            product: Tensor = torch.ops.transformers.grouped_mm_fallback(x, self.weight, self.ends)
            return product

    model, x = OfTransformers().double().eval(), torch.randn(6, 8, dtype=torch.float64)
    explain = fxlrp.compile(model, fxlrp.presets.epsilon(1e-12), example_inputs=x)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).sum(), leaf)
    assert_relevance(explain(x, seed=lambda output: output), x * gradient, 1e-8)

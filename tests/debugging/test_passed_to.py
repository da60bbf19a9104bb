"""To which operand a node passes how much."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return torch.cat([x + x, y], dim=1)


def test_each_operand_receives_its_part() -> None:
    model = Twice().double().eval()
    x = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64)
    seed = torch.arange(1.0, 7.0, dtype=torch.float64)[None]
    found = fxlrp.compile(model, rules="epsilon").debug(x, seed=seed)
    # A concatenation passes on the relevance of each part, and a sum of equal terms halves it.
    assert found["cat"].passed_to == (("add", 6.0), ("inner", 15.0))
    names, parts = zip(*found["add"].passed_to, strict=True)
    assert names == ("x", "x") and parts == pytest.approx((3.0, 3.0))
    ((name, part),) = found["inner"].passed_to
    assert name == "x" and part == pytest.approx(15.0, rel=1e-4)
    assert found["x"].passed_to == ()

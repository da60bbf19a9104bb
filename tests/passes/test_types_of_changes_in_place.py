"""A change in place keeps the type of the value that it changes, also where the operands have another one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from oracles import assert_relevance, random

CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+=": operator.iadd,
    "*=": operator.imul,
    "/=": operator.itruediv,
    "sub_": lambda y, other: y.sub_(other, alpha=2),
    "addcmul_": lambda y, other: y.addcmul_(other, other),
}


class Changed(nn.Module):
    """A value in single precision, changed by one in double precision."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor], source: str) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.change, self.source = change, source
        self.wide = nn.Buffer(random(4, seed=4).abs() + 1 if source == "buffer" else torch.ones(4))

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        y = self.body(x).clone()
        wide = {"buffer": self.wide, "input": other, "cast": y.exp().double()}[self.source]
        out: Tensor = self.head(self.change(y, wide))
        return out


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("source", ["buffer", "cast", "input"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_type_stays(
    change: Callable[[Tensor, Tensor], Tensor], source: str, capture: Literal["symbolic", "export"]
) -> None:
    torch.manual_seed(0)
    model, x, other = Changed(change, source).eval(), torch.randn(2, 4), random(2, 4, seed=3).abs() + 1
    explain = fxlrp.compile(model, "epsilon", example_inputs=(x, other), capture=capture, constants=["other"])
    relevance, output = explain(x, other, target=1, return_output=True)
    assert output.dtype == relevance.dtype == torch.float32
    assert torch.equal(output, model(x, other))


def test_values_that_are_rounded_to_half_precision() -> None:
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x).half()
            y += self.layer(x)
            return y * 3

    torch.manual_seed(0)
    model, x = Halved().eval(), torch.randn(2, 4)
    output: Any = fxlrp.compile(model, presets.epsilon(0.0), capture="symbolic")(x, target=1, return_output=True)[1]
    assert output.dtype == torch.float16 and torch.equal(output, model(x))


def test_values_of_one_type_are_not_converted() -> None:
    class Added(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y += x
            return y

    explain = fxlrp.compile(Added().eval(), presets.epsilon(0.0), capture="symbolic")
    x = random(2, 4)
    assert_relevance(explain(x, target=1)[:, 1], 3 * x[:, 1], 1e-12)
    assert not [node for node in explain.graph_module.graph.nodes if "type_as" in node.name]

"""Modules with names that Python code cannot spell, long chains, and calls that concern autograd alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx.graph
from torch import Tensor, nn

import fxlrp
from helpers import LRP0, one_in
from oracles import assert_relevance, random
from zoo import gradient_times_input


class Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
        inner.add_module(name, nn.Linear(5, 3))
        self.add_module(name, inner)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._modules[self.name](x)  # type: ignore[misc]
        return out


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("name", one_in(3, ["class", "None", "a'b", 'a"b', "a\nb", "a\\b", "a b", "named_61", "é"]))
def test_modules_of_any_name(name: str, capture: Any, tmp_path: Path) -> None:
    model, x, spelling = Named(name).double().eval(), random(2, 4), torch.fx.graph._format_target
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    before = list(model.state_dict())
    explain = fxlrp.compile(model, LRP0, example_inputs=x, capture=capture)
    assert torch.fx.graph._format_target is spelling and list(model.state_dict()) == before
    assert list(explain.state_dict()) == [f"graph_module.model.{each}" for each in before]
    (expected,) = gradient_times_input(model, x, select=lambda y: y[:, 1].sum())
    assert_relevance(explain(x, target=1), expected, 1e-12)
    assert_relevance(copy.deepcopy(explain)(x, target=1), expected, 1e-12)
    explain.export(tmp_path / "explain.pt2", x, target=1)
    assert_relevance(torch.export.load(tmp_path / "explain.pt2").module()(x), expected, 1e-12)
    explain.save(tmp_path / "explain.json")
    with torch.no_grad():
        next(iter(model.parameters())).mul_(2)
    assert_relevance(explain(x, target=1), 2 * expected, 1e-12)
    assert_relevance(fxlrp.load(tmp_path / "explain.json", model, weights=False)(x, target=1), 2 * expected, 1e-12)


@pytest.mark.parametrize("rules", one_in(2, [fxlrp.presets.epsilon(0.0), fxlrp.presets.attnlrp(epsilon=1e-12)]))
def test_a_thousand_scalings_before_a_gate(rules: Any) -> None:
    """The gate is found through all of them: the signal takes all relevance."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            gate = torch.sigmoid(y)
            for _ in range(1100):
                gate = gate * 1.001
            out: Tensor = self.linear(x) * gate
            return out

    model, x, y = Gated().double().eval(), random(2, 4), random(2, 3)
    explain = fxlrp.compile(model, rules, capture="symbolic")
    found = explain(x, y, target=1)
    values = list(found.values()) if isinstance(found, dict) else list(found)
    share = 1.0 if rules.name == "epsilon" else 0.5
    (expected,) = gradient_times_input(lambda x: model(x, y), x, select=lambda y: y[:, 1].sum())
    torch.testing.assert_close(values[0], share * expected, rtol=1e-8, atol=1e-10)


def asks_in_place(x: Tensor) -> Tensor:
    x.requires_grad_()
    return x


def asks_by_attribute(x: Tensor) -> Tensor:
    y = 1 * x
    y.requires_grad = True
    y.retain_grad()
    return y


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("ask", [asks_in_place, lambda x: x.requires_grad_(True), asks_by_attribute])
def test_a_forward_that_asks_for_gradients(ask: Any, capture: Any) -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(ask(x))
            return out

    model, x = Asks().double().eval(), random(2, 4)
    explain = fxlrp.compile(model, LRP0, example_inputs=x, capture=capture)
    assert_relevance(explain(x, target=1), x * model.linear.weight[1].detach(), 1e-12)
    assert not x.requires_grad

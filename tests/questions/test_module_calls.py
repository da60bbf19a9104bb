"""The path of a module means all of its calls, wherever the module is, and never a value from elsewhere."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp.errors import InputError
from helpers import FRONT_ENDS
from oracles import assert_relevance, random

X = random(2, 4)
FrontEnd = Literal["symbolic", "export"]


class Twice(nn.Module):
    """Leaf modules in the root that are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.again, self.head = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.act(self.again(self.act(self.first(x))))))


def of_calls(model: nn.Module, path: str, target: int = 1) -> list[Tensor]:
    """Gradient times value of every call of a module."""
    values: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda module, args, output: values.append(output))
    gradients = torch.autograd.grad(model(X)[:, target].sum(), values)
    handle.remove()
    return [(value * gradient).detach() for value, gradient in zip(values, gradients, strict=True)]


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("path", ["act", "again"])
def test_every_call_of_a_module_of_the_root_has_a_name(path: str, capture: FrontEnd) -> None:
    model = zoo.initialise(Twice().double())
    explain = fxlrp.compile(model, fxlrp.presets.gradient(), capture=capture, example_inputs=X)
    names = [f"{path}_0", f"{path}_1"]
    found = explain(X, target=1, at=names)
    for relevance, expected in zip(found.values(), of_calls(model, path), strict=True):
        assert_relevance(relevance, expected, 1e-12)
    for asked in ({"at": path}, {"only": {path: [0]}}):
        with pytest.raises(InputError, match=f"called more than once: choose '{path}_0', '{path}_1'"):
            explain(X, target=1, **asked)


def test_the_output_to_explain_is_one_call() -> None:
    with pytest.raises(InputError, match="called more than once: choose 'act_0', 'act_1'"):
        fxlrp.compile(zoo.initialise(Twice().double()), fxlrp.presets.gradient(), output="act")


class Functional(nn.Module):
    """A function with the name of a module: before it in forward, or in place of one that is not called."""

    def __init__(self, calls: bool) -> None:
        super().__init__()
        self.first, self.relu, self.head, self.calls = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), calls

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x) + 0.5)
        return self.head(self.relu(x - 0.1) if self.calls else x)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_a_function_does_not_take_the_name_of_a_module(capture: FrontEnd) -> None:
    model = zoo.initialise(Functional(calls=True).double())
    explain = fxlrp.compile(model, fxlrp.presets.gradient(), capture=capture, example_inputs=X)
    (expected,) = of_calls(model, "relu")
    assert_relevance(explain(X, target=1, at="relu"), expected, 1e-12)


def test_a_module_that_is_not_called_is_no_function() -> None:
    explain = fxlrp.compile(zoo.initialise(Functional(calls=False).double()), fxlrp.presets.gradient())
    with pytest.raises(InputError, match="at='relu': the module at this path has no operation in the graph"):
        explain(X, target=1, at="relu")


class Inner(nn.Module):
    """Modules whose paths make the same name, if dots are replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"act": nn.Tanh()})
        self.first, self.block_act, self.head = nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block_act(self.block["act"](self.first(x))))


@pytest.mark.parametrize("path", ["block.act", "block_act"])
def test_a_module_inside_another_does_not_take_the_name_of_one(path: str) -> None:
    model: Any = zoo.initialise(Inner().double())
    explain = fxlrp.compile(model, fxlrp.presets.gradient())
    (expected,) = of_calls(model, path)
    assert_relevance(explain(X, target=1, at=path), expected, 1e-12)

"""The name of a node with several results, such as fused attention or a split, means the result with relevance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp.errors import InputError
from helpers import LRP0
from oracles import assert_relevance, random

X = random(2, 4)


class Attends(nn.Module):
    """Attention whose operands and result have no module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        attended = F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.head(attended.mean(1))


class Splits(nn.Module):
    """A module that returns the parts of a split, of which the model reads one or two."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first, self.parts, self.head = nn.Linear(4, 6), Parts(), nn.Linear(2, 3)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(self.parts(self.first(x))[: self.count], start=torch.zeros(2)))


class Parts(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.chunk(3, 1)


def fused(explain: fxlrp.Explainer) -> str:
    """The node of attention as one operation."""
    (name,) = (each.node for each in explain.balance(random(2, 5, 4), target=1).nodes if each.operation == "attention")
    return name


@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
def test_attention_has_the_relevance_of_its_output(preset: str) -> None:
    """The head passes on ``mean * W r / s(head)``, which the mean divides equally by value."""
    model, x = zoo.initialise(Attends().double()), random(2, 5, 4)
    explain = fxlrp.compile(model, getattr(fxlrp.presets, preset)(epsilon=0.0))
    name = fused(explain)
    attended = F.scaled_dot_product_attention(model.query(x), model.key(x), model.value(x))
    expected = attended / 5 * model.head.weight[1]
    assert_relevance(explain(x, target=1, at=name), expected.detach(), 1e-12)
    read = explain.read(x, target=1, at=name)[name]
    assert_relevance(read.value, attended.detach(), 1e-12)
    of_balance = next(each for each in explain.balance(x, target=1).nodes if each.node == name)
    assert of_balance.received == pytest.approx(float(expected.detach().sum()), rel=1e-10)


def test_conditions_and_coefficients_at_attention() -> None:
    model, x = zoo.initialise(Attends().double()), random(2, 5, 4)
    explain = fxlrp.compile(model, LRP0)
    name = fused(explain)
    coefficient = (model.head.weight[1] / 5).detach().expand(2, 5, 4)
    assert_relevance(explain(x, target=1, at=name, coefficients=True), coefficient, 1e-12)
    each = explain(x, target=1, only=[{name: torch.arange(4) == channel} for channel in range(4)])
    assert_relevance(each.sum(0), explain(x, target=1), 1e-12)


@pytest.mark.parametrize("name", ["parts", "parts_chunk"])
def test_the_only_result_with_relevance(name: str) -> None:
    model = zoo.initialise(Splits(1).double())
    explain = fxlrp.compile(model, LRP0)
    expected = (model.first(X)[:, :2] * model.head.weight[1]).detach()
    assert_relevance(explain(X, target=1, at=name), expected, 1e-12)
    assert_relevance(explain(X, target=1, only={name: [0, 1]}), explain(X, target=1), 1e-12)


@pytest.mark.parametrize("argument", ["at", "only", "output"])
@pytest.mark.parametrize("name", ["parts", "parts_chunk"])
def test_one_of_several_results_is_chosen_by_its_name(name: str, argument: str) -> None:
    model = zoo.initialise(Splits(2).double())
    asked: Any = {argument: {name: [0]} if argument == "only" else name}
    with pytest.raises(InputError, match=rf"{argument}='{name}'.*: choose '\w+', '\w+'") as error:
        if argument == "output":
            fxlrp.compile(model, LRP0, example_inputs=X, **asked)
        else:
            fxlrp.compile(model, LRP0)(X, target=1, **asked)
    chosen = str(error.value).split("'")[-4::2]
    if argument == "at":
        parts = fxlrp.compile(model, LRP0)(X, target=1, at=[chosen[0], chosen[1]])
        for part, index in zip(parts.values(), (slice(0, 2), slice(2, 4)), strict=True):
            assert_relevance(part, (model.first(X)[:, index] * model.head.weight[1]).detach(), 1e-12)


def test_a_condition_where_relevance_never_arrives() -> None:
    explain = fxlrp.compile(zoo.initialise(Splits(1).double()), LRP0)
    with pytest.raises(InputError, match=r"only='head_bias': no relevance reaches the node 'head_bias'"):
        explain(X, target=1, only={"head_bias": [0]})

"""A fact that is not stated is not assumed: without facts the answers are the same, and less is optimized."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import fxlrp.relevance
import zoo
from fxlrp import request, rules
from fxlrp.errors import CaptureError
from fxlrp.operation import Family, Operation
from fxlrp.relevance.step import Implementation
from fxlrp.vocabulary import CANONICAL, Vocabulary
from helpers import as_tuple
from optimization_nets import PRESETS
from oracles import assert_relevance, random

# Those that only make programs cheaper. What becomes of tokens, masks and gates decides what is explained.
OF_OPERATIONS: Mapping[str, Any] = dict(
    non_negative=None, finite=None, keeps_support=None, keeps_elements=False, in_place=None
)
OF_RULES: Mapping[str, Any] = dict(quotients=False, vanishes=False, follows=False)


def without_facts(operation: Operation) -> Operation:
    return dataclasses.replace(operation, **OF_OPERATIONS)


def plain(found: Any) -> Any:
    if isinstance(found, Implementation):
        return dataclasses.replace(found, **OF_RULES)
    return {name: plain(each) for name, each in found.items()}


@pytest.fixture
def no_facts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    vocabulary = Vocabulary(map(without_facts, CANONICAL.operations.values()))
    monkeypatch.setattr(request, "CANONICAL", vocabulary)
    tables = {family: plain(table) for family, table in fxlrp.relevance.RULES.items()}
    monkeypatch.setattr(fxlrp.relevance, "RULES", tables)
    yield


def relevances(model: nn.Module, inputs: tuple[Tensor, ...], preset: Any) -> tuple[Tensor, ...]:
    found = fxlrp.compile(model, preset, example_inputs=inputs)(*inputs)
    return as_tuple(found)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(zoo.SMALL_NETS)), ids=list(zoo.SMALL_NETS))
def test_answers_without_facts(turn: int, request: pytest.FixtureRequest) -> None:
    model, inputs = zoo.small_net(list(zoo.SMALL_NETS)[turn])
    presets = list(PRESETS.values())[turn % 3 :: 3]
    expected = [relevances(model, inputs, preset) for preset in presets]
    request.getfixturevalue("no_facts")
    for preset, wanted in zip(presets, expected, strict=True):
        for got, each in zip(relevances(model, inputs, preset), wanted, strict=True):
            assert_relevance(got, each, 1e-10)


@pytest.mark.parametrize("name", ["residual", "inplace_relu", "shapes", "leaky_activations"])
def test_without_knowledge_of_memory_changes_in_place_are_refused_or_followed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = zoo.small_net(name)
    expected = relevances(model, inputs, "epsilon")
    rows = [dataclasses.replace(each, allocates=False) for each in CANONICAL.operations.values()]
    monkeypatch.setattr(request, "CANONICAL", Vocabulary(rows))
    try:
        found = relevances(model, inputs, "epsilon")
    except CaptureError as error:
        assert "in place" in str(error) or "in-place" in str(error)
        return
    for got, wanted in zip(found, expected, strict=True):
        assert_relevance(got, wanted, 1e-10)


def counts(model: nn.Module, x: Tensor) -> dict[str, int]:
    stages = fxlrp.compile(model, "epsilon_plus", example_inputs=x, debug=True).stages
    return {stage.name: stage.count for stage in stages}


@pytest.mark.slow
def test_nothing_is_optimized_without_facts(request: pytest.FixtureRequest) -> None:
    model, (x,) = zoo.small_net("residual")
    names = ("infer_signs", "carry_quotients")
    before = counts(model, x)
    assert all(before[name] > 0 for name in names)
    request.getfixturevalue("no_facts")
    after = counts(model, x)
    assert all(after[name] == 0 for name in names)
    assert after["infer_support"] < before["infer_support"] and after["reuse_memory"] < before["reuse_memory"]


def made_up(x: Tensor) -> Tensor:
    """Neither linear nor of one sign, and not zero at zero."""
    return torch.cos(x) - 0.3 * x


class AroundMadeUp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(made_up(torch.relu(self.first(x))))


def passes_all(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
    return relevance


def test_a_made_up_operation_without_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that states nothing, of a family whose rule passes relevance on."""
    # Symbolic tracing sees the function itself only where it is kept whole, as a user-defined one.
    row = Operation("made_up", Family.ACTIVATION, torch.cos, {"input": ...})
    operations = [each for each in CANONICAL.operations.values() if each.name != "cos"]
    monkeypatch.setattr(request, "CANONICAL", Vocabulary([row, *operations]))
    assert_same_with_and_without_optimization(expected=["made_up"])


def test_a_user_defined_operation_without_facts() -> None:
    extension = fxlrp.rule_for(made_up)(passes_all)
    assert_same_with_and_without_optimization(extensions=[extension])


def assert_same_with_and_without_optimization(expected: Sequence[str] = (), **options: Any) -> None:
    torch.manual_seed(0)
    model, x = AroundMadeUp().double().eval(), random(4, 6)
    chosen = [("first", rules.Gamma(0.25))]
    off, on = (fxlrp.compile(model, chosen, optimize=each, **options) for each in (False, True))
    assert all(name in str(on) for name in expected)
    assert_relevance(on(x, target=1), off(x, target=1), 1e-10)


@pytest.mark.parametrize("name", ["std", "var", "vector_norm"])
def test_statistics_behind_a_relu_layer_under_gamma(name: str) -> None:
    """These were wrong by 70 to 500 % as long as their contributions were taken for multiples of the operand."""
    torch.manual_seed(0)
    first = nn.Linear(6, 8).double()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = first

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.first(x)).unflatten(1, (2, 4))
            return torch.linalg.vector_norm(hidden, 0, -1) if name == "vector_norm" else getattr(hidden, name)(-1)

    model, x = Net().eval(), random(5, 6)
    off, on = (
        fxlrp.compile(model, [("linear", rules.Gamma(0.25))], optimize=each)(x, seed=torch.ones(5, 2).double())
        for each in (False, True)
    )
    assert off.abs().max() > 0
    assert_relevance(on, off, 1e-10)

"""A warning for each input to which no rule passes relevance."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import FxlrpWarning
from fxlrp.rules import Only
from helpers import FRONT_ENDS
from oracles import One, Two, random

X, Q = random(2, 3), random(2, 3, seed=1)

STOPPED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Any, str]] = {
    "weights": (lambda x, q: x * torch.softmax(q, -1), "cplrp", r"the node 'mul.*SignalTakeAll\(\)"),
    "a condition": (lambda x, q: torch.where(q > 0, x, 2 * x), "epsilon", r"the node 'where.*PassThrough\(\)"),
    "a choice of the user": (lambda x, q: x.relu() + q.tanh(), [("add", Only(0))], r"the node 'add.*Only\(operand=0\)"),
}


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", STOPPED)
def test_an_input_without_relevance(name: str, capture: Any) -> None:
    function, rules, where = STOPPED[name]
    compiled: dict[str, Any] = dict(rules=rules, example_inputs=(X, Q), capture=capture)
    with pytest.warns(FxlrpWarning, match=rf"to the input 'b'.*{where}.*constants=\['b'\]") as found:
        explain = fxlrp.compile(Two(function).eval(), **compiled)
    assert len([each for each in found if each.category is FxlrpWarning]) == 1
    relevance = explain(X, Q)
    assert relevance["a"].abs().sum() > 0 and relevance["b"].abs().sum() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        fxlrp.compile(Two(function).eval(), constants=["b"], **compiled)
        fxlrp.compile(Two(function).eval(), at=["a"], **compiled)


def test_the_only_input_cannot_be_a_constant() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1)).double().eval()
    with pytest.warns(FxlrpWarning, match=r"'input'.*the node '_1'.*Constant\(\)\. Choose another rule$"):
        explain = fxlrp.compile(model, "cplrp")
    assert explain(X).abs().sum() == 0


def test_an_input_with_relevance_or_another_reason() -> None:
    """Reached, not used, or with integers that only select: the table says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        fxlrp.compile(One(torch.tanh).eval(), "cplrp")
        fxlrp.compile(Two(lambda a, b: a * 2).eval(), "cplrp", example_inputs=(X, Q))
        fxlrp.compile(Two(lambda a, b: a[b]).eval(), "cplrp", example_inputs=(X, torch.tensor([1])))


def test_the_warning_is_at_the_line_of_the_user() -> None:
    """At the call of fxlrp.compile, or at the first call of an explainer that is captured there."""
    function, rules, _ = STOPPED["weights"]
    with pytest.warns(FxlrpWarning) as at_compile:
        fxlrp.compile(Two(function).eval(), rules, example_inputs=(X, Q))
    explain = fxlrp.compile(Two(function).eval(), rules, capture="export")
    with pytest.warns(FxlrpWarning) as at_call:
        explain(X, Q)
    assert {each.filename for each in (*at_compile, *at_call)} == {__file__}

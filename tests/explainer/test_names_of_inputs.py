"""Inputs with the names of arguments of the explainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError
from fxlrp.inputs import ARGUMENTS_OF_CALLS

METHODS = ("forward", "balance", "debug", "graph", "read", "check_stages", "certify")


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor, *, keep: Tensor, target: Tensor) -> Tensor:
        return self.head(x + 2 * keep + 3 * target)


def inputs() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {name: torch.rand(2, 4, dtype=torch.float64) for name in ("x", "keep", "target")}


def gradients_times_inputs(model: nn.Module, given: dict[str, Tensor], target: int) -> dict[str, Tensor]:
    tracked = {name: value.clone().requires_grad_() for name, value in given.items()}
    model(**tracked)[:, target].sum().backward()
    return {name: value.detach() * value.grad for name, value in tracked.items() if value.grad is not None}


def test_an_input_is_named_apart_from_the_arguments_of_a_call() -> None:
    model, given = Kept().double().eval(), inputs()
    explain = fxlrp.compile(model, fxlrp.presets.epsilon(0.0), debug=True)
    expected = gradients_times_inputs(model, given, 1)
    found = explain(fxlrp.named(**given), target=1)
    assert found.keys() == expected.keys()
    for name, relevance in expected.items():
        torch.testing.assert_close(found[name], relevance)
    partly = explain(given["x"], fxlrp.named(keep=given["keep"], target=given["target"]), target=1)
    torch.testing.assert_close(partly["keep"], expected["keep"])
    total = sum(float(each.sum()) for each in expected.values())
    for relevances in (
        explain.debug(fxlrp.named(**given), target=1, keep=True),
        explain.balance(fxlrp.named(**given), target=1),
    ):
        assert abs(relevances.at_inputs - total) < 1e-9
    assert explain.check_stages(fxlrp.named(**given), target=1).wrong() == ()
    torch.testing.assert_close(
        explain.read(fxlrp.named(**given), at="keep", target=1)["keep"].relevance, expected["keep"]
    )
    assert '"absorbed"' in explain.graph(None, fxlrp.named(**given), target=1).html


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda explain, given: explain(**given), "keep|target"),
        (lambda explain, given: explain.debug(given["x"], keep=given["keep"]), "keep"),
        (lambda explain, given: explain.graph(None, given["x"], **{"keep": given["keep"]}, target=0), "target"),
    ],
    ids=["call", "debug", "graph"],
)
def test_an_input_that_is_taken_for_an_argument_is_named_in_the_error(call: Callable[..., Any], name: str) -> None:
    explain = fxlrp.compile(Kept().double().eval())
    with pytest.raises(InputError, match=rf"is also an argument of the call: .* fxlrp\.named\(({name})=\.\.\.\)"):
        call(explain, inputs())


def test_an_input_is_given_once() -> None:
    explain, given = fxlrp.compile(Kept().double().eval()), inputs()
    with pytest.raises(InputError, match="'x' is given twice"):
        explain(fxlrp.named(**given), x=given["x"])
    with pytest.raises(InputError, match="unknown input 'y'"):
        explain(fxlrp.named(**given, y=given["x"]))


def test_the_arguments_of_calls_are_those_of_the_methods() -> None:
    named = set()
    for method in METHODS:
        parameters = inspect.signature(getattr(fxlrp.Explainer, method)).parameters.values()
        named |= {each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
    assert named - {"self"} == ARGUMENTS_OF_CALLS


def test_the_page_is_refused_before_the_model_is_explained(tmp_path: Path) -> None:
    calls = []

    class Counted(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(input)

    explain = fxlrp.compile(Counted(4, 3).eval(), example_inputs=torch.ones(2, 4), capture="export")
    del calls[:]
    with pytest.raises(InputError, match=r"does not end in \.html"):
        explain.graph(tmp_path / "x.png", torch.full((2, 5), float("nan")))
    with pytest.raises(InputError, match="does not end in"):
        explain.graph("x.png")
    assert not calls


def test_balance_and_graph_take_an_input_with_the_name_of_an_argument_of_debug() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, *, keep: Tensor) -> Tensor:
            return x * keep

    explain, given = fxlrp.compile(Two().eval(), fxlrp.presets.epsilon(0.0)), torch.full((2, 3), 2.0)
    assert explain.balance(given, keep=given, target=1).at_inputs == pytest.approx(8.0)
    assert explain.graph(None, given, keep=given, target=1).graph.nodes

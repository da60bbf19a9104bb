"""Questions under ``torch.compile``, in copies, and after a change of type."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import fxlrp
from fxlrp.targets import contrast, each, span
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(2, 2, 6, 6)
IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 5, 0, 9, 10, 1]])
QUESTIONS: list[dict[str, Any]] = [
    {"target": each([0, 2])},
    {"target": contrast(0, 2)},
    {"target": 1, "only": {"stem": [0, 2]}},
    {"target": 1, "only": [{"stem": 0}, {"stem": 2}]},
    {"target": 1, "at": ["stem", "last"], "return_output": True},
]


def tensors(found: Any) -> list[torch.Tensor]:
    return [each for each in torch.utils._pytree.tree_leaves(found) if isinstance(each, torch.Tensor)]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_in_one_graph(question: dict[str, Any]) -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    expected = explain(X, **question)
    torch._dynamo.reset()
    found = torch.compile(explain, fullgraph=True, backend="eager")(X, **question)
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        assert_relevance(one, other, 1e-10)


@pytest.mark.parametrize("target", [span(2, 4), each([(-1, 3), (-1, 5)])], ids=str)
def test_a_language_model_in_one_graph(target: Any) -> None:
    explain = fxlrp.compile(language_model(), "attnlrp", example_inputs=IDS)
    expected = explain(IDS, target=target)
    torch._dynamo.reset()
    assert_relevance(torch.compile(explain, fullgraph=True, backend="eager")(IDS, target=target), expected, 1e-8)


def test_torch_export_of_the_explainer() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    expected = explain(X, target=each([0, 2]))
    exported = torch.export.export(explain, (X,), {"target": each([0, 2])})
    assert_relevance(exported.module()(X, target=each([0, 2])), expected, 1e-10)


def test_a_question_has_to_be_asked_before() -> None:
    explain = fxlrp.compile(skips())
    torch._dynamo.reset()
    with pytest.raises(Exception, match="ask it once before"):
        torch.compile(explain, fullgraph=True, backend="eager")(X, target=each([0, 2]))


def test_copies_and_types() -> None:
    explain = fxlrp.compile(skips(), fxlrp.presets.epsilon_gamma_box(low=(-3.0, -2.0), high=3.0))
    expected = explain(X, target=each([0, 2]))
    again = copy.deepcopy(explain)
    assert_relevance(again(X, target=each([0, 2])), expected, 0.0)
    assert_relevance(again(X, target=1, only={"stem": 1}), explain(X, target=1, only={"stem": 1}), 0.0)
    with torch.no_grad():
        again._model.get_parameter("head.weight").mul_(2.0)
    assert_relevance(explain(X, target=each([0, 2])), expected, 0.0)
    assert not torch.equal(again(X, target=each([0, 2])), expected)
    explain.float()
    found = explain(X.float(), target=each([0, 2]))
    assert found.dtype == torch.float32
    assert_relevance(found.double(), expected, 1e-4)


def test_changed_weights_are_noticed_by_every_program() -> None:
    model = skips()
    explain = fxlrp.compile(model, "epsilon_plus")
    asked: list[dict[str, Any]] = [{"target": each([0, 2])}, {"target": 1, "only": {"stem": 1}}, {"target": 1}]
    for question in asked:
        explain(X, **question)
    with torch.no_grad():
        model.get_parameter("stem.0.weight").mul_(-0.5)
    fresh = fxlrp.compile(model, "epsilon_plus")
    for question in asked:
        assert_relevance(explain(X, **question), fresh(X, **question), 1e-12)


def test_no_more_than_some_programs_are_kept() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    expected = explain(X, target=1)
    for at in ("stem", "last", "head", "block", "block.0", "block.1", "block.2", "stem.0", "stem.1"):
        for bypass in (True, False):
            explain(X, target=1, at=at, only={"last": 0} if at not in ("head", "last") else None, bypass=bypass)
    assert len(explain._explanation.require("the programs").answers) <= 17
    assert_relevance(explain(X, target=1), expected, 0.0)

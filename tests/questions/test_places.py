"""Relevance at several places in one call, chosen at the call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError
from helpers import LRP0
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(2, 2, 6, 6)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_several_places_are_those_one_at_a_time(capture: Any) -> None:
    model, names = skips(), ["x", "stem", "block.0", "last", "head"]
    explain = fxlrp.compile(model, "epsilon_plus", at=names, capture=capture, example_inputs=X)
    found = explain(X, target=1)
    assert list(found) == names
    for name in names:
        assert_relevance(found[name], fxlrp.compile(model, "epsilon_plus", at=name)(X, target=1), 1e-12)


def test_places_are_chosen_at_the_call() -> None:
    explain = fxlrp.compile(skips(), LRP0)
    whole = explain(X, target=1)
    at_stem = explain(X, target=1, at="stem")
    assert at_stem.shape == (2, 4, 6, 6)
    assert_relevance(explain(X, target=1, at=["stem"])["stem"], at_stem, 0.0)
    assert_relevance(explain(X, target=1), whole, 0.0)
    assert_relevance(fxlrp.compile(skips(), LRP0, at="head")(X, target=1, at="x"), whole, 1e-12)


def test_a_glob_selects_modules_and_else_nodes() -> None:
    explain = fxlrp.compile(skips(), LRP0)
    assert list(explain(X, target=1, at="block.?")) == ["block.0", "block.1", "block.2"]
    assert {"relu_2", "relu_3"} <= set(explain(X, target=1, at="rel*"))
    with pytest.raises(InputError, match=r"at='nothing\*' matches no module, node or input"):
        explain(X, target=1, at="nothing*")


def test_every_node_of_a_transformer_in_one_call() -> None:
    model, ids = language_model(), torch.tensor([[1, 4, 2, 7, 3]])
    explain = fxlrp.compile(model, "attnlrp", example_inputs=ids)
    names = [f"blocks.{index}{part}" for index in range(2) for part in ("", ".out", ".down")]
    found = explain(ids, target=(-1, 3), at="*")
    assert set(names) <= set(found)
    for name in names:
        assert_relevance(found[name], explain(ids, target=(-1, 3), at=name), 1e-12)


def test_weights_inside_attention_are_written_out_where_they_are_asked_for() -> None:
    model, ids = language_model(), torch.tensor([[1, 4, 2, 7, 3]])
    explain = fxlrp.compile(model, "attnlrp", example_inputs=ids)
    written_out = fxlrp.compile(
        model, "attnlrp", example_inputs=ids, optimize=fxlrp.Optimizations(fuse_attention=False)
    )
    (name, *_) = [node.name for node in written_out.nodes if "softmax" in node.name]
    assert_relevance(explain(ids, target=(-1, 3), at=name), written_out(ids, target=(-1, 3), at=name), 1e-12)
    assert name not in {node.name for node in explain.nodes}


def test_nothing_below_the_lowest_place_is_computed() -> None:
    explain = fxlrp.compile(skips(), at=["last", "head"])
    functions = {str(node.target) for node in explain.graph_module.graph.nodes}
    assert not any("convolution_transposed" in each for each in functions)
    assert any("dense_transposed" in each for each in functions)


def test_the_output_with_the_relevance() -> None:
    model = skips()
    explain = fxlrp.compile(model, LRP0)
    relevance, output = explain(X, target=1, return_output=True)
    assert_relevance(relevance, explain(X, target=1), 0.0)
    torch.testing.assert_close(output, model(X))
    places, output = explain(X, target=1, at=["stem", "x"], return_output=True)
    assert list(places) == ["stem", "x"]
    torch.testing.assert_close(output, model(X))


def test_the_output_of_a_language_model_is_whole() -> None:
    """Also where relevance is computed at the position of the target alone."""
    model, ids = language_model(), torch.tensor([[1, 4, 2, 7, 3]])
    explain = fxlrp.compile(model, "attnlrp", example_inputs=ids)
    relevance, output = explain(ids, target=(-1, 3), return_output=True)
    torch.testing.assert_close(output, model(ids))
    assert_relevance(relevance, explain(ids, target=(-1, 3)), 1e-8)


def test_a_dict_of_inputs_stays_one() -> None:
    class Two(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a * 2 + b

    explain = fxlrp.compile(Two().eval(), LRP0)
    a, b = random(2, 3), random(2, 3, seed=1)
    assert list(explain(a, b, target=0, at=["b"])) == ["b"]
    assert list(explain(a, b, target=0)) == ["a", "b"]


@pytest.mark.parametrize("at", [3, [], [3], {"stem": 1}])
def test_what_is_not_a_name(at: Any) -> None:
    with pytest.raises(InputError, match="at must be a name"):
        fxlrp.compile(skips())(X, at=at)


def test_the_question_is_part_of_the_table() -> None:
    assert "the question: relevance at stem, head" in str(fxlrp.compile(skips(), at=["stem", "head"]))


def test_debug_and_balance_ask_the_same_question() -> None:
    explain = fxlrp.compile(skips(), "epsilon")
    relevances = explain.debug(X, target=1, at=["stem", "last"], keep=True)
    for name in ("stem", "last"):
        found = relevances[last_node(explain, name)].relevance
        assert isinstance(found, Tensor)
        assert_relevance(found, explain(X, target=1, at=name), 1e-9)
    balance = explain.balance(X, target=1, at="stem")
    assert balance.at_inputs == pytest.approx(float(explain(X, target=1, at="stem").sum()), rel=1e-9)


def last_node(explain: fxlrp.Explainer, path: str) -> str:
    """The last node of the module at a path."""
    return [node.name for node in explain.nodes if node.name.startswith(path)][-1]


def test_a_recipe_keeps_the_places(tmp_path: Any) -> None:
    model = skips()
    for at in ("stem", ["stem", "x"], "block.*"):
        explain = fxlrp.compile(model, at=at)
        explain.save(tmp_path / "explain.json")
        again = fxlrp.load(tmp_path / "explain.json", model)
        expected, found = explain(X, target=1), again(X, target=1)
        if isinstance(expected, Tensor):
            assert torch.equal(expected, found)
        else:
            assert {name: value.tolist() for name, value in expected.items()} == {
                name: value.tolist() for name, value in found.items()
            }


def test_matches_of_a_pattern_have_the_order_of_the_model() -> None:
    """Also where one operation is in many modules."""
    model: nn.Module = nn.Linear(4, 4)
    for _ in range(7):
        model = nn.Sequential(model)
    found = fxlrp.compile(nn.Sequential(model, nn.Linear(4, 2)).eval(), at="0*")(torch.rand(1, 4), target=0)
    assert list(found) == [".".join("0" * depth) for depth in range(1, 9)]

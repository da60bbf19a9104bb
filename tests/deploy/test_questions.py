"""Files with several targets, conditions, places, and the output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fxlrp
from fxlrp.errors import ExportError
from fxlrp.targets import contrast, each, region, span
from helpers import compiler_needed
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(2, 2, 6, 6)
IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 5, 0, 9, 10, 1]])


def loaded(path: Path) -> Any:
    return torch.export.load(path).module()


QUESTIONS: list[dict[str, Any]] = [
    {"target": each([0, 2])},
    {"target": contrast(0, 2)},
    {"target": 1, "only": {"stem": [0, 2]}},
    {"target": 1, "only": [{"stem": 0}, {"stem": torch.tensor([True, False, True, True])}]},
    {"target": 1, "only": {"block.1": 2}, "bypass": True},
    {"target": 1, "at": ["stem", "last"]},
    {"target": each([0, 1]), "at": "stem"},
]


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_a_file_answers_the_question(tmp_path: Path, question: dict[str, Any]) -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    explain.export(tmp_path / "explain.pt2", X[:1], **question)
    x = random(3, 2, 6, 6, seed=5)
    expected, found = explain(x, **question), loaded(tmp_path / "explain.pt2")(x)
    if isinstance(expected, dict):
        for one, other in zip(found, expected.values(), strict=True):
            assert_relevance(one, other, 1e-10)
    else:
        assert_relevance(found, expected, 1e-10)


def test_the_output_after_the_relevance(tmp_path: Path) -> None:
    model = skips()
    explain = fxlrp.compile(model, "epsilon_plus")
    explain.export(tmp_path / "explain.pt2", X, outputs=("relevance", "output"))
    relevance, output = loaded(tmp_path / "explain.pt2")(X, torch.tensor([1, 2]))
    assert_relevance(relevance, explain(X, target=[1, 2]), 1e-10)
    torch.testing.assert_close(output, model(X))
    assert fxlrp.deploy.metadata(tmp_path / "explain.pt2")["outputs"] == ["relevance", "output"]


def test_targets_of_a_language_model(tmp_path: Path) -> None:
    explain = fxlrp.compile(language_model(), "attnlrp", example_inputs=IDS)
    for target in (span(2, 4), each([(-1, 3), (-1, 5)]), contrast((2, 4), (2, 5))):
        explain.export(tmp_path / "explain.pt2", IDS, target=target)
        assert_relevance(loaded(tmp_path / "explain.pt2")(IDS), explain(IDS, target=target), 1e-8)


def test_the_output_of_a_language_model_after_the_relevance(tmp_path: Path) -> None:
    model, targets = language_model(), torch.tensor([[2, 4], [1, 3]])
    explain = fxlrp.compile(model, "attnlrp", example_inputs=IDS)
    explain.export(tmp_path / "explain.pt2", IDS, outputs=("relevance", "output"))
    relevance, output = loaded(tmp_path / "explain.pt2")(IDS, targets)
    assert_relevance(relevance, explain(IDS, target=targets), 1e-8)
    torch.testing.assert_close(output, model(IDS))


def test_a_region(tmp_path: Path) -> None:
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[2:4, 1:3] = True
    explain = fxlrp.compile(torch.nn.Conv2d(2, 3, 1).double().eval())
    explain.export(tmp_path / "explain.pt2", X, target=region(1, mask))
    assert_relevance(loaded(tmp_path / "explain.pt2")(X), explain(X, target=region(1, mask)), 1e-10)


@pytest.mark.repeats
@compiler_needed
def test_a_compiled_package(tmp_path: Path) -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    explain.export(tmp_path / "explain.pt2", X, format="aoti", target=each([0, 2]), outputs=("relevance", "output"))
    relevance, _ = torch._inductor.aoti_load_package(str(tmp_path / "explain.pt2"))(X)
    assert_relevance(relevance, explain(X, target=each([0, 2])), 1e-10)


def test_an_unknown_result(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="outputs must be"):
        fxlrp.compile(skips()).export(tmp_path / "explain.pt2", X, outputs=("output",))

"""Contrastive LRP against its definition: a class less its dual, one explanation for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxlrp
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(2, 2, 6, 6)


@pytest.mark.parametrize("rules", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("classes", [[1, 1], [2, 0]])
def test_the_class_less_its_dual(classes: list[int], rules: str) -> None:
    model = skips()
    explain = fxlrp.compile(model, rules)
    output = model(X).detach()
    score = output[torch.arange(2), classes]
    dual = torch.stack([score / 2] * 3, 1)
    dual[torch.arange(2), classes] = 0.0
    expected = explain(X, target=classes) - explain(X, seed=dual)
    assert_relevance(explain(X, target=fxlrp.targets.clrp(classes)), expected, 1e-10)
    assert float(dual.sum()) == pytest.approx(float(score.sum()))


def test_the_position_of_a_language_model() -> None:
    model, ids = language_model(), torch.tensor([[1, 4, 2, 7, 3]])
    explain = fxlrp.compile(model, "attnlrp", example_inputs=ids)
    output = model(ids).detach()
    seed = torch.zeros_like(output)
    seed[:, -1] = -output[:, -1, 3:4] / 10
    seed[:, -1, 3] = output[:, -1, 3]
    target: Any = fxlrp.targets.clrp((-1, 3))
    assert_relevance(explain(ids, target=target), explain(ids, seed=seed), 1e-10)

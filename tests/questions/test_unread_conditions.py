"""Conditions on which no requested relevance depends: they are checked, and each has a result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fxlrp
from fxlrp import targets
from fxlrp.errors import InputError
from helpers import LRP0
from oracles import assert_relevance, random
from questions import skips

X = random(2, 2, 6, 6)


def same(relevance: Tensor) -> Tensor:
    return relevance


@pytest.mark.parametrize("conditions", [[0, 1, 2], [0, same, 2]], ids=["channels", "functions"])
def test_places_above_a_list_of_conditions(conditions: list[Any]) -> None:
    explain = fxlrp.compile(skips(), LRP0)
    whole = explain(X, target=1, at="head")
    found = explain(X, target=1, at="head", only=[{"stem": each} for each in conditions])
    assert found.shape == (3, *whole.shape)
    assert_relevance(found, whole.expand(3, *whole.shape), 1e-12)


def test_places_above_a_list_of_conditions_and_targets() -> None:
    explain = fxlrp.compile(skips(), LRP0)
    only: list[dict[str, Any]] = [{"stem": 0}, {"stem": 1}]
    with pytest.raises(InputError, match="there are 2 and 3 targets or conditions"):
        explain(X, target=targets.each([0, 1, 2]), at="head", only=only)
    found = explain(X, target=targets.each([0, 2]), at="head", only=only)
    for relevance, target in zip(found, (0, 2), strict=True):
        assert_relevance(relevance, explain(X, target=target, at="head"), 1e-12)


@pytest.mark.parametrize(
    ("condition", "message"),
    [(4, "the value has 4 channels"), (torch.ones(3, 6, 6, dtype=torch.bool), "does not broadcast to the value")],
    ids=["channel", "mask"],
)
def test_an_unread_condition_is_checked(condition: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fxlrp.compile(skips(), LRP0)(X, target=1, at="head", only={"stem": condition})


@pytest.mark.parametrize("none", [[], (), torch.zeros(4, dtype=torch.bool)], ids=["list", "tuple", "mask"])
def test_no_channels(none: Any) -> None:
    """Nothing passes."""
    found = fxlrp.compile(skips(), LRP0)(X, target=1, only={"stem": none})
    assert found.shape == X.shape
    assert not found.any()


@pytest.mark.parametrize("argument", ["only", "output"])
def test_a_parameter_is_not_a_value(argument: str) -> None:
    """It has relevance, which ``at=`` returns."""
    assert fxlrp.compile(skips(), LRP0)(X, target=1, at="stem.0.weight").shape == (4, 2, 3, 3)
    with pytest.raises(InputError, match=r"stem\.0\.weight.*this is a parameter, not a value"):
        if argument == "only":
            fxlrp.compile(skips(), LRP0)(X, target=1, only={"stem.0.weight": 0})
        else:
            fxlrp.compile(skips(), LRP0, output="stem.0.weight")

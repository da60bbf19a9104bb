"""The parameters of rules and presets: finite numbers, of Python or NumPy."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxlrp
from fxlrp import presets, rules
from fxlrp.errors import RuleError

NO_NUMBERS: list[Any] = [float("nan"), float("inf"), -float("inf"), -1e-9, "0.1", None, True, 1j, 10**400]
NO_NUMBERS += [torch.tensor(0.25), np.array([0.25]), np.bool_(True), [0.25], np.float32("nan")]

MAKERS: dict[str, Callable[[Any], Any]] = {
    "epsilon": rules.Epsilon,
    "gamma": rules.Gamma,
    "gamma's stabilizer": lambda value: rules.Gamma(0.1, stabilizer=value),
    "alpha": lambda value: rules.AlphaBeta(alpha=value, beta=0.0),
    "beta": lambda value: rules.AlphaBeta(alpha=1.0, beta=value),
    "alpha-beta's stabilizer": lambda value: rules.AlphaBeta(stabilizer=value),
    **{
        rule.__name__: lambda value, rule=rule: rule(stabilizer=value)  # type: ignore[misc]
        for rule in (rules.ZPlus, rules.WSquare, rules.Flat, rules.Magnitude, rules.SignalTakeAll, rules.Taylor)
    },
    "zbox's stabilizer": lambda value: rules.ZBox(0.0, 1.0, stabilizer=value),
    "preset gamma": lambda value: presets.epsilon_gamma_box(0.0, 1.0, gamma=value),
    **{
        f"preset {preset.__name__}": preset
        for preset in (presets.epsilon, presets.epsilon_plus, presets.epsilon_plus_flat, presets.epsilon_alpha2_beta1)
    },
    "preset attnlrp": presets.attnlrp,
    "preset cplrp": presets.cplrp,
}


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("make", MAKERS)
def test_what_is_no_number(make: str, value: Any) -> None:
    with pytest.raises(RuleError, match="must be a finite number of at least 0"):
        MAKERS[make](value)


@pytest.mark.parametrize("value", [np.float32(0.25), np.float16(0.25), np.float64(0.25), Fraction(1, 4)], ids=repr)
def test_numbers_become_pythons_own(value: Any) -> None:
    assert type(rules.Gamma(value).gamma) is float and rules.Gamma(value) == rules.Gamma(0.25)
    assert type(presets.epsilon(value).epsilon) is float
    assert type(rules.ZBox((value, value), value).low[0]) is float  # type: ignore[index]
    model = nn.Linear(3, 2).eval()
    x = torch.rand(1, 3)
    for own, other in ((rules.Gamma(value), rules.Gamma(0.25)), (rules.Epsilon(value), rules.Epsilon(0.25))):
        relevance = fxlrp.compile(model, [("linear", own)])(x, target=0)
        assert torch.equal(relevance, fxlrp.compile(model, [("linear", other)])(x, target=0))


def test_whole_numbers() -> None:
    assert str(rules.AlphaBeta(np.int64(2), np.int32(1))) == "AlphaBeta(alpha=2, beta=1)"  # type: ignore[arg-type]
    assert rules.Epsilon(0) == rules.Epsilon(0.0)


@pytest.mark.parametrize("rule", [rules.Epsilon, rules.ZPlus, rules.AlphaBeta, rules.Gamma, rules.WSquare])
@pytest.mark.parametrize("value", ["no", 0, None, 1.0], ids=repr)
def test_flags(rule: Any, value: Any) -> None:
    with pytest.raises(RuleError, match="bias must be True or False"):
        rule(bias=value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rules.Only(True), "operand must be 0 or 1"),
        (lambda: rules.Only(1.0), "operand must be 0 or 1"),  # type: ignore[arg-type]
        (lambda: rules.Only(2), "operand must be 0 or 1"),
        (lambda: rules.Custom("x"), "must be a function"),  # type: ignore[arg-type]
        (lambda: rules.Gamma(0.1, bias_in_sign=0), "bias_in_sign must be True or False"),  # type: ignore[arg-type]
    ],
)
def test_others(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        make()

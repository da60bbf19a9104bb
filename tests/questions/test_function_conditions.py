"""Conditions that are functions of the relevance of a value, one or several in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import targets
from fxlrp.errors import InputError
from fxlrp.relevance.conditions import Condition
from helpers import LRP0
from oracles import assert_relevance, dense_map, gamma_rule, random
from questions import skips

X = random(2, 2, 6, 6)
Function = Callable[[Tensor], Tensor]


def positive(relevance: Tensor) -> Tensor:
    return relevance.clamp(min=0)


def large(relevance: Tensor) -> Tensor:
    """What is larger than the mean: the values decide, which a function under vmap may not read."""
    return relevance * (relevance > float(relevance.mean()))


def squared(relevance: Tensor) -> Tensor:
    """In its own memory."""
    return relevance.mul_(relevance)


FUNCTIONS: dict[str, Function] = {"positive": positive, "large": large, "squared": squared}


def expected(model: nn.Module, path: str, keep: Function, target: int = 1) -> Tensor:
    """LRP-0 of the input under ``R -> keep(R)`` at a module: ``x * J^T (keep(R) / v)`` for the value ``v``."""
    values: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(lambda module, args, output: values.append(output))
    x = X.clone().requires_grad_()
    logit = model(x)[:, target].sum()
    handle.remove()
    (value,) = values
    (gradient,) = torch.autograd.grad(logit, value, retain_graph=True)
    kept = keep((value * gradient).detach())
    factor = torch.where(value == 0, 0.0, kept / value).detach()
    (at_input,) = torch.autograd.grad(value, x, factor)
    return (x * at_input).detach()


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("keep", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("path", ["stem.0", "block", "last"])
def test_a_function_receives_the_relevance(path: str, keep: Function, optimize: bool) -> None:
    """And not its quotient by the value, in which an optimized program carries it."""
    model = skips()
    explain = fxlrp.compile(model, LRP0, optimize=optimize)
    assert_relevance(explain(X, target=1, only={path: keep}), expected(model, path, keep), 1e-10)


@pytest.mark.parametrize("path", ["block", "last"])
def test_several_functions_in_one_call(path: str) -> None:
    model = skips()
    explain = fxlrp.compile(model, LRP0)
    found = explain(X, target=1, only=[{path: keep} for keep in FUNCTIONS.values()], at=["x", "head"])
    for index, keep in enumerate(FUNCTIONS.values()):
        assert_relevance(found["x"][index], expected(model, path, keep), 1e-10)
        assert_relevance(found["head"][index], explain(X, target=1, at="head"), 1e-12)


def test_functions_among_channels_and_masks() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    mask = torch.tensor([True, False, False, True])
    only: list[dict[str, Condition]] = [{"last": positive}, {"last": [0, 2]}, {"last": mask}]
    found = explain(X, target=1, only=only)
    for relevance, condition in zip(found, only, strict=True):
        assert_relevance(relevance, explain(X, target=1, only=condition), 1e-10)


def test_functions_and_targets() -> None:
    """A function for each target, or one for all."""
    model = skips()
    explain = fxlrp.compile(model, LRP0)
    each = explain(X, target=targets.each([0, 2]), only=[{"last": positive}, {"last": large}])
    of_all = explain(X, target=targets.each([0, 2]), only={"last": positive})
    assert_relevance(each[0], expected(model, "last", positive, 0), 1e-10)
    assert_relevance(each[1], expected(model, "last", large, 2), 1e-10)
    for index, target in enumerate((0, 2)):
        assert_relevance(of_all[index], expected(model, "last", positive, target), 1e-10)
    with pytest.raises(InputError, match="there are 2 and 3 targets or conditions"):
        explain(X, target=targets.each([0, 1, 2]), only=[{"last": positive}, {"last": large}])


@pytest.mark.parametrize("rules", ["epsilon_alpha2_beta1", "epsilon_gamma_box", "attnlrp"])
def test_every_question_finds_the_values_of_the_model(rules: str) -> None:
    """Steps that run again read values that an earlier run has not written into."""
    options = {"low": -3.0, "high": 3.0} if rules == "epsilon_gamma_box" else {}
    explain = fxlrp.compile(skips(), getattr(fxlrp.presets, rules)(**options))
    found = explain(X, target=1, only=[{"last": positive}] * 3)
    for relevance in found:
        assert_relevance(relevance, explain(X, target=1, only={"last": positive}), 1e-12)


def test_one_function_of_several_must_return_relevance() -> None:
    with pytest.raises(InputError, match="must return a tensor of the shape"):
        fxlrp.compile(skips())(X, target=1, only=[{"stem": positive}, {"stem": torch.sum}])


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("place", ["0", "1"])
def test_relevance_that_a_function_moves_to_elements_that_are_zero(place: str, optimize: bool) -> None:
    """Gamma divides the relevance of outputs that are negative by their negative parts."""
    torch.manual_seed(0)
    conv, head = nn.Conv2d(2, 4, 3).double(), nn.Linear(64, 3).double()
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), head).eval()
    explain = fxlrp.compile(model, LRP0.override([("conv2d", fxlrp.rules.Gamma(0.25))]), optimize=optimize)
    received = (conv(X).relu().flatten(1) * head.weight[1]).unflatten(1, (4, 4, 4)).detach()
    spread = received.mean((2, 3), keepdim=True).expand_as(received)
    expected = gamma_rule(dense_map(conv, X.shape[1:]), X.flatten(1), spread.flatten(1)).reshape(X.shape)
    condition: Any = {place: lambda r: r.mean((2, 3), keepdim=True).expand_as(r)}
    found = explain(X, target=1, only=condition)
    assert_relevance(found, expected, 1e-9)

"""A user-defined rule receives what its signature names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import rules
from fxlrp.errors import RuleError

SEEN: dict[str, Any] = {}


def note(x: Any, /, **seen: Any) -> Tensor:
    SEEN.clear()
    SEEN.update(seen)
    return torch.zeros(2, 4) if x is None else torch.zeros_like(x)


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3).eval()


def run(function: Callable[..., Any], model: nn.Module | None = None, selector: str = "linear") -> dict[str, Any]:
    layer = linear() if model is None else model
    x = torch.ones(2, 4)
    relevance = fxlrp.compile(layer, [(selector, rules.Custom(function))])(x, seed=torch.full_like(layer(x), 7.0))
    assert torch.equal(relevance, torch.zeros(2, 4))
    return SEEN


def test_only_the_relevance() -> None:
    seen = run(lambda relevance: note(None, relevance=relevance))
    assert torch.equal(seen["relevance"], torch.full((2, 3), 7.0))


def test_the_relevance_has_the_type_of_the_operand() -> None:
    """Whatever the function computes with."""
    layer, x = linear(), torch.ones(2, 4)
    rule = rules.Custom(lambda relevance: torch.ones(2, 4, dtype=torch.float64))
    found = fxlrp.compile(layer, [("linear", rule)])(x, target=0)
    assert found.dtype == torch.float32 and torch.equal(found, torch.ones(2, 4))


def test_arguments_by_name_in_any_order() -> None:
    seen = run(lambda bias, relevance, weight, input: note(input, bias=bias, weight=weight))
    assert torch.equal(seen["weight"], linear().weight) and torch.equal(seen["bias"], linear().bias)


def test_a_parameter_with_a_name_of_its_own_takes_the_next_argument() -> None:
    seen = run(lambda x, w, *, out, relevance: note(x, x=x, w=w, out=out))
    assert torch.equal(seen["x"], torch.ones(2, 4)) and torch.equal(seen["w"], linear().weight)
    assert torch.equal(seen["out"], linear()(torch.ones(2, 4)))
    seen = run(lambda weight, x, *, relevance: note(x, x=x, weight=weight))
    assert torch.equal(seen["x"], torch.ones(2, 4)) and torch.equal(seen["weight"], linear().weight)
    seen = run(lambda relevance, x: note(x, x=x))
    assert torch.equal(seen["x"], torch.ones(2, 4))


def test_a_parameter_with_a_default_keeps_it() -> None:
    seen = run(lambda x, scale=5.0, *, relevance, other="o": note(x, scale=scale, other=other))
    assert (seen["scale"], seen["other"]) == (5.0, "o")


def test_positional_only_parameters() -> None:
    def rule(x: Tensor, w: Tensor, /, relevance: Tensor) -> Tensor:
        return note(x, w=w, relevance=relevance)

    seen = run(rule)
    assert torch.equal(seen["w"], linear().weight) and torch.equal(seen["relevance"], torch.full((2, 3), 7.0))


def test_everything() -> None:
    seen = run(lambda x, **others: note(x, **others))
    assert seen.keys() == {"weight", "bias", "out", "relevance"}
    seen = run(lambda *args, **others: note(args[0], args=args, **others))
    assert len(seen["args"]) == 2 and seen.keys() == {"args", "bias", "out", "relevance"}
    seen = run(lambda *args, relevance: note(args[0], args=args, relevance=relevance))
    assert len(seen["args"]) == 2


def test_the_defaults_of_the_operation() -> None:
    class Convolved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1, 2))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv1d(x.unsqueeze(1), self.weight, padding=1).squeeze(1)

    seen = run(
        lambda x, relevance, stride, padding, groups: note(x, stride=stride, padding=padding, groups=groups),
        Convolved().eval(),
        "conv1d",
    )
    assert (seen["stride"], seen["padding"], seen["groups"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x, *, relevance, gamma: x, "gamma"),
        (lambda a, b, c, d, *, relevance: a, "d"),
        (lambda x, weight, bias, more, relevance: x, "more"),
    ],
)
def test_a_parameter_without_an_argument_is_an_error_of_compile(function: Any, named: str) -> None:
    with pytest.raises(RuleError, match=f"parameter '{named}', for which linear has no argument.*input, weight, bias"):
        fxlrp.compile(linear(), [("linear", rules.Custom(function))])


def scaled(x: Tensor, scale: float = 2.0, shift: float = 0.0) -> Tensor:
    return x * scale + shift


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return scaled(x, shift=1.0)


def test_extensions_too() -> None:
    found: dict[str, Any] = {}

    @fxlrp.rule_for(scaled)
    def rule(shift: float, scale: float, relevance: Tensor) -> Tensor:
        found.update(shift=shift, scale=scale)
        return relevance

    x = torch.ones(2, 4)
    assert torch.equal(fxlrp.compile(Scaled().eval(), extensions=[rule])(x, seed=x), x)
    assert found == {"shift": 1.0, "scale": 2.0}

    @fxlrp.rule_for(scaled)
    def wrong(x: Tensor, *, relevance: Tensor, factor: float) -> Tensor:
        return relevance

    with pytest.raises(RuleError, match=r"the rule wrong has a parameter 'factor'.*x, scale, shift"):
        fxlrp.compile(Scaled().eval(), extensions=[wrong])


def test_a_function_written_in_c() -> None:
    with pytest.raises(RuleError, match="arguments of the rule mul are unknown"):
        fxlrp.compile(linear(), [("linear", rules.Custom(torch.mul))])


def test_a_function_without_a_name_cannot_be_written_into_a_program() -> None:
    with pytest.raises(RuleError, match=r"must be a function with a name, not functools.partial"):
        rules.Custom(functools.partial(note))

"""Constants in sums take their share as a bias does; in products and quotients all goes to x."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxlrp import rules
from fxlrp.errors import RuleError
from helpers import Function, epsilon_with, explained, of_two
from oracles import (
    assert_relevance,
    dense_map,
    epsilon_rule,
    random,
    randomize,
    relative_error,
    stabilize,
    through,
)

A, B, SEED = random(3, 4, 5, seed=1), random(3, 4, 5, seed=2), random(3, 4, 5, seed=3)


class Constants(nn.Module):
    buffer: Tensor

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.parameter = nn.Parameter(random(4, 5, seed=4))
        self.register_buffer("buffer", random(4, 1, seed=5))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.parameter, self.buffer)


P, Q = random(4, 5, seed=4), random(4, 1, seed=5)
# function of (x, parameter, buffer), factor of x, constant term
CONSTANT_TERMS: dict[str, tuple[Function, float, Tensor | float]] = {
    "x + 1": (lambda x, p, q: x + 1, 1.0, 1.0),
    "2.5 + x": (lambda x, p, q: 2.5 + x, 1.0, 2.5),
    "x - 2": (lambda x, p, q: x - 2.0, 1.0, -2.0),
    "1 - x": (lambda x, p, q: 1 - x, -1.0, 1.0),
    "x.add(3)": (lambda x, p, q: x.add(3), 1.0, 3.0),
    "x.sub(3, alpha=2)": (lambda x, p, q: x.sub(3, alpha=2), 1.0, -6.0),
    "torch.rsub(x, 1)": (lambda x, p, q: torch.rsub(x, 1), -1.0, 1.0),
    "x + parameter": (lambda x, p, q: x + p, 1.0, P),
    "parameter + x": (lambda x, p, q: p + x, 1.0, P),
    "parameter - x": (lambda x, p, q: p - x, -1.0, P),
    "x + buffer": (lambda x, p, q: x + q, 1.0, Q),
    "x - buffer": (lambda x, p, q: torch.sub(x, q), 1.0, -Q),
    "torch.add(buffer, x, alpha=2)": (lambda x, p, q: torch.add(q, x, alpha=2), 2.0, Q),
    "x + (parameter + buffer)": (lambda x, p, q: x + (p + q), 1.0, P + Q),
    "x + full_like": (lambda x, p, q: x + torch.full_like(x, 0.75), 1.0, 0.75),
    "x + ones_like": (lambda x, p, q: x + torch.ones_like(x), 1.0, 1.0),
    "x + constant cast to x": (lambda x, p, q: x + q.float().to(x), 1.0, Q.float().double()),
    "x + constant cast to x.dtype": (lambda x, p, q: x + q.float().to(x.dtype), 1.0, Q.float().double()),
}


@pytest.mark.parametrize("name", CONSTANT_TERMS)
def test_constant_term_takes_its_share(name: str) -> None:
    function, factor, constant = CONSTANT_TERMS[name]
    relevance = explained(Constants(function), (A,), SEED)
    assert_relevance(relevance, factor * A * SEED / stabilize(factor * A + constant))


def test_constant_term_by_magnitude() -> None:
    relevance = explained(Constants(lambda x, p, q: x + p), (A,), SEED, epsilon_with(("add", rules.Magnitude())))
    assert_relevance(relevance, A.abs() * SEED / stabilize(A.abs() + P.abs()))


def test_constant_term_left_out() -> None:
    model = Constants(lambda x, p, q: p + x)
    assert_relevance(explained(model, (A,), SEED, epsilon_with(("add", rules.Only(1)))), SEED)


def test_all_to_a_constant_term() -> None:
    """Nothing is left for x; to refuse the rule is as good."""
    try:
        relevance = explained(Constants(lambda x, p, q: p + x), (A,), SEED, epsilon_with(("add", rules.Only(0))))
    except RuleError:
        return
    assert_relevance(relevance, torch.zeros_like(A))


FACTORS: dict[str, Function] = {
    "x * 3": lambda x, p, q: x * 3,
    "-0.5 * x": lambda x, p, q: -0.5 * x,
    "-x": lambda x, p, q: -x,
    "torch.neg": lambda x, p, q: torch.neg(x),
    "x * parameter": lambda x, p, q: x * p,
    "parameter * x": lambda x, p, q: p * x,
    "x * buffer": lambda x, p, q: torch.mul(x, q),
    "x * sigmoid(parameter)": lambda x, p, q: x * torch.sigmoid(p),
    "x.mul(2)": lambda x, p, q: x.mul(2),
    "x / 4": lambda x, p, q: x / 4,
    "torch.div": lambda x, p, q: torch.div(x, 4.0),
    "x / parameter": lambda x, p, q: x / p,
    "x.div(buffer)": lambda x, p, q: x.div(q),
    "times equals": lambda x, p, q: torch.relu(x).mul_(2.0),
    "divided equals": lambda x, p, q: torch.relu(x).div_(2.0),
}


@pytest.mark.parametrize("option", [None, rules.SignalTakeAll(), rules.Uniform()], ids=str)
@pytest.mark.parametrize("name", FACTORS)
def test_constant_factor_takes_nothing(name: str, option: object) -> None:
    pairs = [("mul", option)] if option and ("*" in name or "mul" in name) else []
    assert_relevance(explained(Constants(FACTORS[name]), (A,), SEED, epsilon_with(*pairs)), SEED)


def test_constant_factor_broadcasts_the_signal() -> None:
    x = random(3, 1, 5, seed=12)
    for function in (lambda x, p, q: x * p, lambda x, p, q: x / q):
        relevance = explained(Constants(function), (x,), SEED)
        assert_relevance(relevance, SEED.sum(1, keepdim=True))


def test_division_leaves_the_denominator_out() -> None:
    for function in (lambda a, b: a / b, lambda a, b: torch.div(a, 1 + b.abs())):
        relevance_a, relevance_b = of_two(function, A, B, SEED)
        assert_relevance(relevance_a, SEED)
        assert_relevance(relevance_b, torch.zeros_like(B))


def test_division_of_a_broadcast_numerator() -> None:
    a = random(3, 4, 1, seed=13)
    relevance_a, relevance_b = of_two(lambda a, b: a / b, a, B, SEED)
    assert_relevance(relevance_a, SEED.sum(2, keepdim=True))
    assert_relevance(relevance_b, torch.zeros_like(B))


def test_layer_scale_in_a_residual_branch() -> None:
    """x + gamma f(x), as in ConvNeXt: the factor passes the branch's share on."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = randomize(nn.Linear(5, 5), 31)
            self.scale = nn.Parameter(random(5, seed=14))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.scale * self.f(x)

    model, x, seed = Scaled(), random(3, 5), random(3, 5, seed=1)
    branch = (model.scale * model.f(x)).detach()
    ratio = seed / stabilize(x + branch)
    expected = x * ratio + through(epsilon_rule, dense_map(model.f, (5,)), x, branch * ratio)
    assert_relevance(explained(model, (x,), seed), expected)


def test_closed_forms_differ_from_the_gradient_way() -> None:
    """Accumulating gradients gives the whole of R to both operands: no test above may accept that."""
    relevance_a, _ = of_two(lambda a, b: a + b, A, B, SEED)
    assert relative_error(relevance_a, SEED) > 1e-2

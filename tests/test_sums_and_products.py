"""Sums, skip connections, gates, products and quotients against closed forms made by hand, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp import presets, rules
from fxlrp.errors import CaptureError, RuleError
from oracles import (
    EPSILON,
    One,
    Three,
    Two,
    assert_relevance,
    dense_map,
    epsilon_rule,
    random,
    randomize,
    relative_error,
    stabilize,
    through,
)

Function = Callable[..., Tensor]


def explained(model: nn.Module, inputs: tuple[Tensor, ...], seed: Tensor, pairs: list[Any]) -> Any:
    """Epsilon everywhere, but for the pairs."""
    rule_set = presets.epsilon(epsilon=EPSILON)
    explain = fxlrp.compile(model.eval(), rules=rule_set.override(pairs) if pairs else rule_set)
    return explain(*(t.clone() for t in inputs), seed=seed)


def of_one(function: Function, x: Tensor, seed: Tensor, *pairs: Any) -> Tensor:
    return explained(One(function), (x,), seed, list(pairs))


def of_two(function: Function, a: Tensor, b: Tensor, seed: Tensor, *pairs: Any) -> tuple[Tensor, Tensor]:
    first, second = explained(Two(function), (a, b), seed, list(pairs))
    return first, second


def summed_to(t: Tensor, shape: torch.Size) -> Tensor:
    """Broadcasting undone: dimensions that were added or stretched are summed."""
    while t.dim() > len(shape):
        t = t.sum(0)
    for i, n in enumerate(shape):
        if n == 1:
            t = t.sum(i, keepdim=True)
    return t


A, B, SEED = random(3, 4, 5, seed=1), random(3, 4, 5, seed=2), random(3, 4, 5, seed=3)

# ----------------------------------------------------------------------------------------------------
# Sums of two inputs: the function and the two terms that it adds


def in_place(a: Tensor, b: Tensor) -> Tensor:
    c = torch.relu(a)
    c += b
    return c


def in_place_method(a: Tensor, b: Tensor) -> Tensor:
    c = torch.relu(a)
    c.add_(b, alpha=2)  # the result is not used: the call is not dead
    return c


def in_place_subtraction(a: Tensor, b: Tensor) -> Tensor:
    c = torch.relu(a)
    c -= b
    return c


SUMS: dict[str, tuple[Function, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "plus": (lambda a, b: a + b, lambda a, b: (a, b)),
    "torch.add": (lambda a, b: torch.add(a, b), lambda a, b: (a, b)),
    "torch.add by name": (lambda a, b: torch.add(input=a, other=b), lambda a, b: (a, b)),
    "method": (lambda a, b: a.add(b), lambda a, b: (a, b)),
    "add alpha": (lambda a, b: torch.add(a, b, alpha=3), lambda a, b: (a, 3 * b)),
    "add negative alpha": (lambda a, b: a.add(b, alpha=-0.5), lambda a, b: (a, -0.5 * b)),
    "plus equals": (in_place, lambda a, b: (a.clamp(min=0), b)),
    "add_ alpha": (in_place_method, lambda a, b: (a.clamp(min=0), 2 * b)),
}
DIFFERENCES: dict[str, tuple[Function, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "minus": (lambda a, b: a - b, lambda a, b: (a, -b)),
    "torch.sub": (lambda a, b: torch.sub(a, b), lambda a, b: (a, -b)),
    "sub alpha": (lambda a, b: torch.sub(a, b, alpha=2), lambda a, b: (a, -2 * b)),
    "rsub": (lambda a, b: torch.rsub(a, b), lambda a, b: (-a, b)),
    "minus equals": (in_place_subtraction, lambda a, b: (a.clamp(min=0), -b)),
}
ALL_SUMS = SUMS | DIFFERENCES


@pytest.mark.parametrize("name", ALL_SUMS)
def test_sum_is_shared_in_proportion(name: str) -> None:
    """R_a = a R / s(a + b)."""
    function, terms = ALL_SUMS[name]
    first, second = terms(A, B)
    ratio = SEED / stabilize(first + second)
    relevance_a, relevance_b = of_two(function, A, B, SEED)
    assert_relevance(relevance_a, first * ratio)
    assert_relevance(relevance_b, second * ratio)


@pytest.mark.parametrize("epsilon", [0.5, 1e-9])
def test_epsilon_of_a_sum(epsilon: float) -> None:
    relevance_a, relevance_b = of_two(lambda a, b: a + b, A, B, SEED, ("add", rules.Epsilon(epsilon)))
    assert_relevance(relevance_a, A * SEED / stabilize(A + B, epsilon))
    assert_relevance(relevance_b, B * SEED / stabilize(A + B, epsilon))


def test_sum_of_exactly_zero() -> None:
    """Two dead ReLUs give 0 + 0: nothing flows, and nothing is NaN, at epsilon 0 too."""
    a, b = -A.abs(), B
    b = torch.where(b > 0.5, b, torch.zeros_like(b))
    for epsilon in (0.0, EPSILON):
        found = of_two(lambda a, b: torch.relu(a) + b, a, b, SEED, ("add", rules.Epsilon(epsilon)))
        assert_relevance(found[0], torch.zeros_like(a))
        assert_relevance(found[1], torch.where(b > 0, b * SEED / (b + epsilon), torch.zeros_like(b)))


@pytest.mark.parametrize("name", SUMS)
def test_sum_by_magnitude(name: str) -> None:
    """R_a = |a| R / s(|a| + |b|)."""
    function, terms = SUMS[name]
    first, second = (t.abs() for t in terms(A, B))
    for option, stabilizer in ((rules.Magnitude(), EPSILON), (rules.Magnitude(stabilizer=0.1), 0.1)):
        relevance_a, relevance_b = of_two(function, A, B, SEED, ("add", option))
        assert_relevance(relevance_a, first * SEED / stabilize(first + second, stabilizer))
        assert_relevance(relevance_b, second * SEED / stabilize(first + second, stabilizer))


@pytest.mark.parametrize("name", SUMS)
def test_sum_in_equal_parts(name: str) -> None:
    relevance_a, relevance_b = of_two(SUMS[name][0], A, B, SEED, ("add", rules.Equal()))
    assert_relevance(relevance_a, SEED / 2)
    assert_relevance(relevance_b, SEED / 2)


@pytest.mark.parametrize("name", SUMS)
def test_sum_to_one_operand_only(name: str) -> None:
    zero = torch.zeros_like(SEED)
    relevance_a, relevance_b = of_two(SUMS[name][0], A, B, SEED, ("add", rules.Only(operand=0)))
    assert_relevance(relevance_a, SEED)
    assert_relevance(relevance_b, zero)
    relevance_a, relevance_b = of_two(SUMS[name][0], A, B, SEED, ("add", rules.Only(operand=1)))
    assert_relevance(relevance_a, zero)
    assert_relevance(relevance_b, SEED)


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("option", [rules.Magnitude(), rules.Equal(), rules.Only(0)], ids=str)
def test_options_of_a_difference(name: str, option: object) -> None:
    function, terms = DIFFERENCES[name]
    first, second = (t.abs() for t in terms(A, B))
    ratio = SEED / stabilize(first + second)
    expected = {
        "Magnitude": (first * ratio, second * ratio),
        "Equal": (SEED / 2, SEED / 2),
        "Only": (SEED, torch.zeros_like(SEED)),
    }[type(option).__name__]
    if name == "rsub" and isinstance(option, rules.Only):
        option = rules.Only(1)  # torch.rsub(a, b) is b - a
    found = of_two(function, A, B, SEED, ("*", option))
    assert_relevance(found[0], expected[0])
    assert_relevance(found[1], expected[1])


# ----------------------------------------------------------------------------------------------------
# One value more than once


@pytest.mark.parametrize(
    "option", [rules.Epsilon(), rules.Magnitude(), rules.Equal(), rules.Only(0), rules.Only(1)], ids=str
)
def test_value_added_to_itself(option: object) -> None:
    """x + x has two contributions that add up to all of R."""
    relevance = of_one(lambda x: x + x, A, SEED, ("add", option))
    expected = SEED
    if isinstance(option, (rules.Epsilon, rules.Magnitude)):
        expected = 2 * A.abs() * SEED / (2 * A.abs() + EPSILON)
    assert_relevance(relevance, expected)


def test_value_added_three_times() -> None:
    relevance = of_one(lambda x: x + x + x, A, SEED)
    last = SEED / stabilize(3 * A)
    assert_relevance(relevance, A * last + 2 * A * (2 * A * last) / stabilize(2 * A))


def test_value_subtracted_from_its_multiple() -> None:
    """3x - x: 3x R / s(2x) goes one way, -x R / s(2x) the other."""
    relevance = of_one(lambda x: 3 * x - x, A, SEED)
    assert_relevance(relevance, 2 * A * SEED / stabilize(2 * A))


def test_in_place_sum_is_seen_by_later_uses() -> None:
    """h.add_(1) returns what nobody uses, and h is another value from there on."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            h = self.linear(x)
            h.add_(1.0)
            return h + x

    model, x, seed = InPlace(), random(3, 5), random(3, 5, seed=1)
    h = model.linear(x).detach()
    ratio = seed / stabilize(h + 1 + x)
    at_h = h * ((h + 1) * ratio) / stabilize(h + 1)
    expected = x * ratio + through(epsilon_rule, dense_map(model.linear, (5,)), x, at_h)
    assert_relevance(explained(model, (x,), seed, []), expected)


def test_in_place_relu_is_seen_by_later_uses() -> None:
    """a = relu(h) in place makes h the same as a: y = 2 relu(h)."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 5))
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            h = self.linear(x)
            return self.relu(h) + h

    model, x, seed = InPlace(), random(3, 5), random(3, 5, seed=1)
    h = model.linear(x).detach().relu()
    expected = through(epsilon_rule, dense_map(model.linear, (5,)), x, 2 * h * seed / stabilize(2 * h))
    assert_relevance(explained(model, (x,), seed, []), expected)


def test_in_place_change_of_a_view_is_seen_or_refused() -> None:
    """The first two elements of h grow by 1, through a slice of it: never the answer of a model without that."""

    class View(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            h = self.linear(x)
            h[:, :2].add_(1.0)
            return h

    model, x, seed = View(), random(3, 5), random(3, 5, seed=1)
    h = model.linear(x).detach()
    at_h = torch.cat([(h * seed / stabilize(h + 1))[:, :2], seed[:, 2:]], dim=1)
    try:
        relevance = explained(model, (x,), seed, [])
    except CaptureError as error:
        assert "in-place" in str(error)
        return
    assert_relevance(relevance, through(epsilon_rule, dense_map(model.linear, (5,)), x, at_h))


def test_input_is_left_alone_by_an_in_place_model() -> None:
    def function(x: Tensor) -> Tensor:
        x.add_(1.0)
        return x

    x = A.clone()
    explain = fxlrp.compile(One(function).eval(), rules="epsilon")
    relevance = explain(x, seed=SEED)
    assert torch.equal(x, A)
    assert_relevance(relevance, A * SEED / stabilize(A + 1))


# ----------------------------------------------------------------------------------------------------
# Constants take their share, as a bias does


class Constants(nn.Module):
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
    relevance = explained(Constants(function), (A,), SEED, [])
    assert_relevance(relevance, factor * A * SEED / stabilize(factor * A + constant))


def test_constant_term_by_magnitude() -> None:
    relevance = explained(Constants(lambda x, p, q: x + p), (A,), SEED, [("add", rules.Magnitude())])
    assert_relevance(relevance, A.abs() * SEED / stabilize(A.abs() + P.abs()))


def test_constant_term_left_out() -> None:
    model = Constants(lambda x, p, q: p + x)
    assert_relevance(explained(model, (A,), SEED, [("add", rules.Only(1))]), SEED)


def test_all_to_a_constant_term() -> None:
    """Nothing is left for x; to refuse the rule is as good."""
    try:
        relevance = explained(Constants(lambda x, p, q: p + x), (A,), SEED, [("add", rules.Only(0))])
    except RuleError:
        return
    assert_relevance(relevance, torch.zeros_like(A))


# ----------------------------------------------------------------------------------------------------
# Broadcasting

SHAPES = [
    ((3, 4, 5), (3, 4, 1)),
    ((3, 4, 5), (3, 1, 5)),
    ((3, 1, 5), (3, 4, 1)),
    ((3, 4, 5), (5,)),
    ((4, 1), (3, 1, 5)),
    ((1, 4, 5), (3, 4, 5)),
    ((3, 4, 5), ()),
    ((1, 1, 1), (1, 1)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("option", [None, rules.Magnitude(), rules.Equal(), rules.Only(0), rules.Only(1)], ids=str)
def test_broadcast_operands_get_theirs_summed(shapes: tuple[tuple[int, ...], tuple[int, ...]], option: object) -> None:
    a, b = random(*shapes[0], seed=6), random(*shapes[1], seed=7)
    seed = random(*(a + b).shape, seed=8)
    one, zero = torch.ones_like(seed), torch.zeros_like(seed)
    weights = {
        "NoneType": (a / stabilize(a + b), b / stabilize(a + b)),
        "Magnitude": (a.abs() / (a.abs() + b.abs() + EPSILON), b.abs() / (a.abs() + b.abs() + EPSILON)),
        "Equal": (one / 2, one / 2),
        "Only": (one, zero) if option == rules.Only(0) else (zero, one),
    }[type(option).__name__]
    found = of_two(lambda a, b: a + b, a, b, seed, *([("add", option)] if option else []))
    assert_relevance(found[0], summed_to(weights[0] * seed, a.shape))
    assert_relevance(found[1], summed_to(weights[1] * seed, b.shape))


# ----------------------------------------------------------------------------------------------------
# Skip connections


class Skip(nn.Module):
    """x + conv(x), written as residual networks write it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv = randomize(nn.Conv2d(2, 2, 3, padding=1), 20)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.conv(x)
        if self.in_place:
            out += identity
            return out
        return out + identity


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("option", [None, rules.Magnitude(), rules.Equal(), rules.Only(0), rules.Only(1)], ids=str)
def test_skip_connection(in_place: bool, option: object) -> None:
    model, x = Skip(in_place), random(2, 2, 4, 4)
    branch = model.conv(x).detach()
    seed = random(2, 2, 4, 4, seed=1)
    to_branch, to_skip = {
        "NoneType": (branch / stabilize(branch + x), x / stabilize(branch + x)),
        "Magnitude": tuple(t.abs() / (branch.abs() + x.abs() + EPSILON) for t in (branch, x)),
        "Equal": (0.5, 0.5),
        "Only": (1.0, 0.0) if option == rules.Only(0) else (0.0, 1.0),
    }[type(option).__name__]
    through_conv = through(epsilon_rule, dense_map(model.conv, (2, 4, 4)), x, seed * to_branch)
    relevance = explained(model, (x,), seed, [("add", option)] if option else [])
    assert_relevance(relevance, seed * to_skip + through_conv)


def test_nested_skips() -> None:
    """h = x + f(x), y = h + g(h), z = x + y: a skip over two skips."""

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = randomize(nn.Linear(5, 5), 21)
            self.g = randomize(nn.Linear(5, 5), 22)

        def forward(self, x: Tensor) -> Tensor:
            h = x + self.f(x)
            return x + (h + self.g(h))

    model, x, seed = Nested(), random(3, 5), random(3, 5, seed=1)
    f, g = dense_map(model.f, (5,)), dense_map(model.g, (5,))
    f_x = model.f(x).detach()
    h = x + f_x
    g_h = model.g(h).detach()
    y = h + g_h
    at_z = seed / stabilize(x + y)
    at_y = y * at_z / stabilize(y)
    at_h = h * at_y + through(epsilon_rule, g, h, g_h * at_y)
    expected = x * at_z + x * at_h / stabilize(h) + through(epsilon_rule, f, x, f_x * at_h / stabilize(h))
    relevance = explained(model, (x,), seed, [])
    assert_relevance(relevance, expected)


def test_module_used_twice_in_a_row() -> None:
    """The second call's input is not the first's."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 5), 23)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.relu(self.linear(x)))

    model, x, seed = Twice(), random(3, 5), random(3, 5, seed=1)
    m = dense_map(model.linear, (5,))
    h = model.linear(x).detach().clamp(min=0)
    expected = through(epsilon_rule, m, x, through(epsilon_rule, m, h, seed))
    assert_relevance(explained(model, (x,), seed, []), expected)


def test_module_used_on_two_inputs() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 4), 24)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.linear(a) - self.linear(b)

    model, a, b, seed = Shared(), random(3, 5), random(3, 5, seed=1), random(3, 4, seed=2)
    m = dense_map(model.linear, (5,))
    l_a, l_b = model.linear(a).detach(), model.linear(b).detach()
    ratio = seed / stabilize(l_a - l_b)
    found = explained(model, (a, b), seed, [])
    assert_relevance(found[0], through(epsilon_rule, m, a, l_a * ratio))
    assert_relevance(found[1], through(epsilon_rule, m, b, -l_b * ratio))


def test_input_that_is_not_used_gets_nothing() -> None:
    found = explained(Three(lambda a, b, c: a + c), (A, B, A), SEED, [])
    assert_relevance(found[0], A * SEED / stabilize(2 * A))
    assert_relevance(found[1], torch.zeros_like(B))
    assert_relevance(found[2], A * SEED / stabilize(2 * A))


def test_branch_that_is_not_used_takes_nothing() -> None:
    def function(x: Tensor) -> Tensor:
        unused = torch.sigmoid(x) * x + 3
        unused.relu()
        return x + 1

    assert_relevance(of_one(function, A, SEED), A * SEED / stabilize(A + 1))


# ----------------------------------------------------------------------------------------------------
# Gates: signal and weight

GATES: dict[str, Function] = {
    "x * sigmoid(h)": lambda x, h: x * torch.sigmoid(h),
    "sigmoid(h) * x": lambda x, h: torch.sigmoid(h) * x,
    "torch.mul": lambda x, h: torch.mul(x, h.sigmoid()),
    "method": lambda x, h: F.sigmoid(h).mul(x),
    "hardsigmoid": lambda x, h: F.hardsigmoid(h) * x,
    "gate reshaped": lambda x, h: torch.sigmoid(h).flatten(1).view(h.shape) * x,
    "gate from 1 - sigmoid": lambda x, h: x * (1 - torch.sigmoid(h)),
    "softmax": lambda x, h: x * torch.softmax(h, dim=1),
    "gate from 1 + sigmoid": lambda x, h: (1 + torch.sigmoid(h)) * x,
    "gate halved": lambda x, h: torch.mul(x, torch.sigmoid(h) / 2),
    "gate in place": lambda x, h: torch.relu(x).mul_(torch.sigmoid(h)),
    "gate scaled": lambda x, h: x * (2.0 * torch.sigmoid(h)),
    "tanh and sigmoid": lambda x, h: torch.tanh(x) * torch.sigmoid(h),
    "sigmoid and tanh": lambda x, h: torch.sigmoid(h) * torch.tanh(x),
    "silu": lambda x, h: F.silu(h) * x,
    "gelu": lambda x, h: x * F.gelu(h),
}


@pytest.mark.parametrize("name", GATES)
def test_signal_takes_all(name: str) -> None:
    relevance_x, relevance_h = of_two(GATES[name], A, B, SEED)
    assert_relevance(relevance_x, SEED)
    assert_relevance(relevance_h, torch.zeros_like(B))


@pytest.mark.parametrize("name", ["x * sigmoid(h)", "sigmoid(h) * x", "torch.mul", "method", "tanh and sigmoid"])
def test_gate_in_equal_parts(name: str) -> None:
    for relevance in of_two(GATES[name], A, B, SEED, ("mul", rules.Uniform())):
        assert_relevance(relevance, SEED / 2)


def test_signal_and_gate_from_one_value() -> None:
    """x * sigmoid(x): all of R, whichever rule: the two halves meet in x."""
    assert_relevance(of_one(lambda x: x * torch.sigmoid(x), A, SEED), SEED)
    assert_relevance(of_one(lambda x: x * torch.sigmoid(x), A, SEED, ("mul", rules.Uniform())), SEED)


def test_square_as_a_product() -> None:
    assert_relevance(of_one(lambda x: x * x, A, SEED, ("mul", rules.Uniform())), SEED)
    assert_relevance(of_one(lambda x: x * x, A, SEED), SEED)


def test_product_of_two_signals_in_equal_parts() -> None:
    for relevance in of_two(lambda a, b: a * b, A, B, SEED, ("mul", rules.Uniform())):
        assert_relevance(relevance, SEED / 2)


def test_product_of_two_signals_is_shared_once() -> None:
    """Nothing tells signal from gate here; whoever is chosen, relevance is neither doubled nor lost."""
    relevance_a, relevance_b = of_two(lambda a, b: a * b, A, B, SEED)
    assert_relevance(relevance_a + relevance_b, SEED)


def test_highway() -> None:
    """y = g a + (1 - g) b: the sum is shared in proportion, then each product goes to its signal."""

    def function(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
        g = torch.sigmoid(h)
        return g * a + (1 - g) * b

    h = random(3, 4, 5, seed=9)
    g = torch.sigmoid(h)
    ratio = SEED / stabilize(g * A + (1 - g) * B)
    found = explained(Three(function), (A, B, h), SEED, [])
    assert_relevance(found[0], g * A * ratio)
    assert_relevance(found[1], (1 - g) * B * ratio)
    assert_relevance(found[2], torch.zeros_like(h))


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 1, 5), (5,), (1, 1, 1), (4, 1)], ids=str)
def test_broadcast_gate(shape: tuple[int, ...]) -> None:
    h = random(*shape, seed=10)
    relevance_x, relevance_h = of_two(GATES["x * sigmoid(h)"], A, h, SEED)
    assert_relevance(relevance_x, SEED)
    assert_relevance(relevance_h, torch.zeros_like(h))
    relevance_x, relevance_h = of_two(GATES["x * sigmoid(h)"], A, h, SEED, ("mul", rules.Uniform()))
    assert_relevance(relevance_x, SEED / 2)
    assert_relevance(relevance_h, summed_to(SEED / 2, h.shape))


def test_broadcast_signal() -> None:
    x = random(3, 1, 5, seed=11)
    relevance_x, relevance_h = of_two(GATES["x * sigmoid(h)"], x, B, SEED)
    assert_relevance(relevance_x, SEED.sum(1, keepdim=True))
    assert_relevance(relevance_h, torch.zeros_like(B))


class SqueezeExcitation(nn.Module):
    """The ways that libraries write it: gate by convolutions, or by linear layers and a view."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.pool = nn.AdaptiveAvgPool2d(1)
        if style == "convolutions":
            self.down, self.up = randomize(nn.Conv2d(4, 2, 1), 25), randomize(nn.Conv2d(2, 4, 1), 26)
        else:
            self.down, self.up = randomize(nn.Linear(4, 2), 25), randomize(nn.Linear(2, 4), 26)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "convolutions":
            return torch.sigmoid(self.up(F.relu(self.down(self.pool(x))))) * x
        b, c, _, _ = x.size()
        gate = torch.sigmoid(self.up(F.relu(self.down(self.pool(x).view(b, c)), inplace=True))).view(b, c, 1, 1)
        return x * gate.expand_as(x)


@pytest.mark.parametrize("style", ["convolutions", "linear layers"])
def test_squeeze_excitation(style: str) -> None:
    model, x, seed = SqueezeExcitation(style), random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    assert_relevance(explained(model, (x,), seed, []), seed)


@pytest.mark.parametrize("style", ["convolutions", "linear layers"])
def test_squeeze_excitation_in_equal_parts(style: str) -> None:
    """Half to x; half, summed over the plane, through sigmoid, layer, ReLU, layer and mean."""
    model, x, seed = SqueezeExcitation(style), random(2, 4, 3, 3), random(2, 4, 3, 3, seed=1)
    pooled = x.mean((2, 3))
    shape = (4, 1, 1) if style == "convolutions" else (4,)
    down = dense_map(model.down, shape)
    up = dense_map(model.up, (2, *shape[1:]))
    hidden = (pooled @ down.weight.T + down.bias).clamp(min=0).detach()
    at_gate = (seed / 2).sum((2, 3))
    at_pooled = epsilon_rule(down, pooled, epsilon_rule(up, hidden, at_gate)).detach()
    to_pixel = (at_pooled / stabilize(pooled)).reshape(2, 4, 1, 1) / 9
    relevance = explained(model, (x,), seed, [("mul", rules.Uniform())])
    assert_relevance(relevance, seed / 2 + x * to_pixel)


@pytest.mark.parametrize("style", ["chunk", "glu"])
def test_gated_linear_unit(style: str) -> None:
    """a sigmoid(b) with [a, b] = linear(x): all of R at a, nothing at b."""

    class GatedLinearUnit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = randomize(nn.Linear(5, 6), 27)

        def forward(self, x: Tensor) -> Tensor:
            if style == "glu":
                return F.glu(self.linear(x), dim=-1)
            a, b = self.linear(x).chunk(2, dim=-1)
            return a * torch.sigmoid(b)

    model, x, seed = GatedLinearUnit(), random(3, 5), random(3, 3, seed=1)
    at_linear = torch.cat([seed, torch.zeros_like(seed)], dim=-1)
    expected = through(epsilon_rule, dense_map(model.linear, (5,)), x, at_linear)
    assert_relevance(explained(model, (x,), seed, []), expected)
    if style == "chunk":
        at_linear = torch.cat([seed, seed], dim=-1) / 2
        expected = through(epsilon_rule, dense_map(model.linear, (5,)), x, at_linear)
        assert_relevance(explained(model, (x,), seed, [("mul", rules.Uniform())]), expected)


def test_gated_mlp() -> None:
    """down(silu(gate(x)) * up(x)), as language models write it: the signal is up."""

    class GatedMLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = randomize(nn.Linear(5, 6), 28)
            self.up = randomize(nn.Linear(5, 6), 29)
            self.down = randomize(nn.Linear(6, 5), 30)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(F.silu(self.gate(x)) * self.up(x))

    model, x, seed = GatedMLP(), random(2, 3, 5), random(2, 3, 5, seed=1)
    gate, up, down = (dense_map(m, (3, n)) for m, n in ((model.gate, 5), (model.up, 5), (model.down, 6)))
    hidden = (F.silu(model.gate(x)) * model.up(x)).detach()
    at_product = through(epsilon_rule, down, hidden, seed)
    to_up = through(epsilon_rule, up, x, at_product)
    assert_relevance(explained(model, (x,), seed, []), to_up)
    halves = to_up / 2 + through(epsilon_rule, gate, x, at_product) / 2
    assert_relevance(explained(model, (x,), seed, [("mul", rules.Uniform())]), halves)


# ----------------------------------------------------------------------------------------------------
# Products and quotients with a constant: all to x

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
    assert_relevance(explained(Constants(FACTORS[name]), (A,), SEED, pairs), SEED)


def test_constant_factor_broadcasts_the_signal() -> None:
    x = random(3, 1, 5, seed=12)
    for function in (lambda x, p, q: x * p, lambda x, p, q: x / q):
        relevance = explained(Constants(function), (x,), SEED, [])
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
    assert_relevance(explained(model, (x,), seed, []), expected)


def test_closed_forms_differ_from_the_gradient_way() -> None:
    """Accumulating gradients gives the whole of R to both operands: no test above may accept that."""
    relevance_a, _ = of_two(lambda a, b: a + b, A, B, SEED)
    assert relative_error(relevance_a, SEED) > 1e-2

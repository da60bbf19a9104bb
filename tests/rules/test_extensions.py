"""Rules for operations of one's own: functions of the user's, functions of torch, and rules given by a pair."""

import functools
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import presets, rules
from fxlrp.errors import CaptureError, FxlrpError, RuleError, UnsupportedOpError
from fxlrp.vocabulary import CANONICAL
from oracles import assert_relevance, randomize

X = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
R = torch.tensor([[10.0, 20.0, 30.0]], dtype=torch.float64)
WEIGHT = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)


class Net(nn.Module):
    """A function as a model, with a forward of this file: it finds the functions below where a user's would."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Two(Net):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        return self.function(a, b)


def compiled(model: nn.Module | Callable[..., Tensor], *extensions: Any, rules: Any = None) -> fxlrp.Explainer:
    model = model if isinstance(model, nn.Module) else Net(model)
    return fxlrp.compile(model.eval(), rules or presets.epsilon(0.0), extensions=extensions)


def canonical_names(explain: fxlrp.Explainer) -> list[str]:
    """Named by the vocabulary that knows no extension: what is left of a function that was opened."""
    return [op.name for node in explain.nodes if (op := CANONICAL.operation(node))]


def rows(explain: fxlrp.Explainer) -> list[str]:
    return str(explain).partition("\n\n")[0].splitlines()[2:]


# One operand


def cube(x: Tensor, factor: float = 1.0) -> Tensor:
    """Steps that no rule covers as they stand: if capture opened it, compiling would fail."""
    return factor * torch.linalg.matrix_power(torch.diag_embed(x), 3).diagonal(dim1=-2, dim2=-1)


@fxlrp.rule_for(cube)
def cube_relevance(x: Tensor, factor: float = 1.0, *, out: Tensor, relevance: Tensor) -> Tensor:
    return 100 * relevance + 10 * x + out + factor


def test_a_function_of_the_users_module() -> None:
    """The rule sees the argument, the value and the relevance: 100 R + 10 x + x^3 + 1."""
    relevance = compiled(lambda x: cube(x), cube_relevance)(X, seed=R)
    assert relevance.tolist() == [[1000.0 + 10 + 1 + 1, 2000 - 20 - 8 + 1, 3000 + 30 + 27 + 1]]


def test_without_the_extension_it_is_opened() -> None:
    with pytest.raises(UnsupportedOpError, match=r"pow.*test_extensions.py"):
        compiled(lambda x: cube(x))


def test_between_other_layers() -> None:
    """Relevance comes from the layer behind and goes on to the one before."""

    def keep(x: Tensor, factor: float = 1.0, *, out: Tensor, relevance: Tensor) -> Tensor:
        return relevance

    explain = compiled(lambda x: cube(x @ WEIGHT) @ WEIGHT, fxlrp.rule_for(cube)(keep))
    hidden = X @ WEIGHT
    out = hidden**3 @ WEIGHT
    into_cube = hidden**3 * ((R / out) @ WEIGHT.T)
    assert_relevance(explain(X, seed=R), X * ((into_cube / hidden) @ WEIGHT.T), 1e-12)


@pytest.mark.parametrize(
    ("call", "factor"),
    [
        (lambda x: cube(x), 1.0),
        (lambda x: cube(x, 2.0), 2.0),
        (lambda x: cube(x, factor=2.0), 2.0),
        (lambda x: cube(x=x, factor=2.0), 2.0),
        (lambda x: cube(factor=3.0, x=x), 3.0),
        (lambda x: cube(x, 1.0), 1.0),
    ],
    ids=["default", "position", "keyword", "both_keywords", "reordered", "default_given"],
)
def test_arguments_by_position_and_by_keyword(call: Callable[[Tensor], Tensor], factor: float) -> None:
    explain = compiled(call, cube_relevance)
    assert_relevance(explain(X, seed=R), 100 * R + 10 * X + factor * X**3 + factor, 1e-14)


def needs_factor(x: Tensor, factor: float, *, out: Tensor, relevance: Tensor) -> Tensor:
    return factor * relevance


@pytest.mark.parametrize(
    "call",
    [lambda x: cube(x, 1.0), lambda x: cube(x, factor=1.0), lambda x: cube(x)],
    ids=["position", "keyword", "none"],
)
def test_a_rule_without_defaults_of_its_own_gets_every_argument(call: Callable[[Tensor], Tensor]) -> None:
    """The rule need not repeat the defaults of the function."""
    explain = compiled(call, fxlrp.rule_for(cube)(needs_factor))
    assert torch.equal(explain(X, seed=R), R)


def copying(x: Tensor, copy: bool = False, inplace: bool = False, axis: int = 0) -> Tensor:
    x = torch.pow(x, 1)
    return x.sum(axis, keepdim=True).expand_as(x) + (5.0 if copy else 0.0) + (7.0 if inplace else 0.0)


@fxlrp.rule_for(copying)
def copying_relevance(
    x: Tensor, copy: bool = False, inplace: bool = False, axis: int = 0, *, out: Tensor, relevance: Tensor
) -> Tensor:
    return out + 100 * copy + 200 * inplace + 400 * axis


@pytest.mark.parametrize(
    ("call", "added"),
    [
        (lambda x: copying(x, copy=True), 100),
        (lambda x: copying(x, inplace=True), 200),
        (lambda x: copying(x, True, True), 300),
        (lambda x: copying(x, axis=1), 400),
        (lambda x: copying(x=x, axis=1, copy=True), 500),
    ],
    ids=["copy", "inplace", "positions", "axis", "x"],
)
def test_arguments_with_names_that_mean_something_to_torch(call: Callable[[Tensor], Tensor], added: int) -> None:
    """They are the function's own: none is renamed, dropped, or taken for a change in place."""
    explain = compiled(call, copying_relevance)
    assert_relevance(explain(X, seed=R), call(X) + added, 1e-14)


def several(*tensors: Tensor, scale: float) -> Tensor:
    return torch.pow(torch.stack(tensors), scale).sum(0)


def with_options(x: Tensor, **options: float) -> Tensor:
    return torch.pow(x, options["power"])


def test_functions_with_any_number_of_arguments_are_right_or_refused() -> None:
    for function, call in (
        (several, lambda x: several(x, 2 * x, scale=1.0)),
        (with_options, lambda x: with_options(x, power=2.0)),
    ):
        try:
            extension = fxlrp.rule_for(function)(lambda *args, out, relevance, **kwargs: 2 * relevance)
            explain = compiled(call, extension)
        except FxlrpError as error:
            assert function.__name__ in str(error)
        else:
            assert torch.equal(explain(X, seed=R), 2 * R)


def test_the_function_is_left_as_it_is() -> None:
    """Capture keeps it whole by standing in for it; afterwards the module is as before."""
    before = cube
    compiled(lambda x: cube(x), cube_relevance)
    assert cube is before and sys.modules[__name__].cube is before
    assert torch.equal(cube(X), X**3)
    with pytest.raises(UnsupportedOpError, match="corrcoef"):
        compiled(lambda x: torch.corrcoef(cube(x)), cube_relevance)
    assert sys.modules[__name__].cube is before


def test_an_extension_is_still_its_function() -> None:
    assert isinstance(cube_relevance, fxlrp.Extension)
    assert torch.equal(cube_relevance(X, out=X, relevance=R), 100 * R + 10 * X + X + 1)


def test_the_function_off_the_way_of_relevance() -> None:
    """On constants, and in a gate: it computes its value, and its rule is not asked."""

    @fxlrp.rule_for(cube)
    def never(x: Tensor, factor: float = 1.0, *, out: Tensor, relevance: Tensor) -> Tensor:
        raise AssertionError

    explain = compiled(lambda x: x * cube(WEIGHT[0]) + torch.sigmoid(cube(x)) * x, never)
    out = X * WEIGHT[0] ** 3 + torch.sigmoid(X**3) * X
    assert_relevance(explain(X, seed=R), R, 1e-12)
    assert torch.allclose(explain(X, seed=lambda y: y - out), torch.zeros_like(X))


def test_called_twice() -> None:
    @fxlrp.rule_for(cube)
    def third(x: Tensor, factor: float = 1.0, *, out: Tensor, relevance: Tensor) -> Tensor:
        return relevance / 4

    explain = compiled(lambda x: cube(cube(x)) * 2, third)
    assert torch.equal(explain(X, seed=R), R / 16)
    assert [row.split()[0] for row in rows(explain)][1:3] == ["cube", "cube_1"]


# Where the model finds the function

helpers = types.ModuleType("helpers_of_a_model")
exec(
    "import torch\ndef squash(x):\n    return torch.erf(x)\ndef squash_twice(x):\n    return squash(squash(x))\n",
    helpers.__dict__,
)


@pytest.fixture(autouse=True)
def _helpers() -> Iterator[None]:
    sys.modules[helpers.__name__] = helpers
    yield
    del sys.modules[helpers.__name__]


_private = helpers.squash


class Squashes(nn.Module):
    function = staticmethod(helpers.squash)

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.kept = helpers.squash

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(self.squashed(x))

    def squashed(self, x: Tensor) -> Tensor:
        if self.how == "module":
            return helpers.squash(x)
        if self.how == "other function":
            return helpers.squash_twice(x)
        if self.how == "attribute":
            return self.kept(x)
        if self.how == "static method":
            return self.function(x)
        if self.how == "private":
            return _private(x)
        if self.how == "argument":
            return functools.reduce(lambda value, step: step(value), [helpers.squash], x)
        from helpers_of_a_model import squash  # type: ignore[import-not-found]

        return squash(x)


@pytest.mark.parametrize(
    "how", ["module", "other function", "attribute", "static method", "argument", "import", "private"]
)
def test_wherever_the_model_finds_the_function_its_rule_counts(how: str) -> None:
    """Or an error names it. Here `erf` has a rule as well: opening the function would go unnoticed."""
    double = fxlrp.rule_for(helpers.squash)(lambda x, *, out, relevance: 2 * relevance)
    other = fxlrp.rule_for(torch.erf)(lambda x, *, out, relevance: relevance)
    try:
        explain = compiled(Squashes(how), double, other)
    except FxlrpError as error:
        assert "squash" in str(error)
    else:
        assert torch.equal(explain(X, seed=R), (4 if how == "other function" else 2) * R)


def test_an_extension_that_the_model_does_not_call_is_an_error() -> None:
    with pytest.raises(RuleError, match="extension for 'cube' has no effect"):
        compiled(torch.relu, cube_relevance)


# Several operands


def blend(a: Tensor, b: Tensor, weight: float = 0.5) -> Tensor:
    return torch.lerp(a, b, weight)


@fxlrp.rule_for(blend, operands=["a", "b"])
def blend_relevance(
    a: Tensor, b: Tensor, weight: float = 0.5, *, out: Tensor, relevance: Tensor
) -> tuple[Tensor, Tensor]:
    return (1 - weight) * relevance, weight * relevance


class Blend(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return blend(a, b, weight=0.25)


def test_several_operands() -> None:
    first, second = compiled(Blend(), blend_relevance)(X, X + 1, seed=R).values()
    assert torch.equal(first, 0.75 * R) and torch.equal(second, 0.25 * R)


@pytest.mark.parametrize(
    ("call", "factor"),
    [
        (lambda x: blend(x, 3 * x, 0.25), 1.0),
        (lambda x: blend(x, WEIGHT[:1], 0.25), 0.75),
        (lambda x: blend(WEIGHT[:1], b=x, weight=0.25), 0.25),
        (lambda x: blend(b=x, a=WEIGHT[:1]), 0.5),
    ],
    ids=["one_value_twice", "first_only", "second_only", "keywords"],
)
def test_several_operands_of_which_some_are_constant(call: Callable[[Tensor], Tensor], factor: float) -> None:
    """A constant's part goes nowhere, and takes nothing else with it."""
    explain = compiled(call, blend_relevance)
    assert_relevance(explain(X, seed=R), factor * R, 1e-14)


def test_an_operand_that_is_not_the_first() -> None:
    extension = fxlrp.rule_for(blend, operands=["b"])(lambda a, b, weight=0.5, *, out, relevance: 3 * relevance)
    explain = compiled(lambda x: blend(WEIGHT[:1], x, 0.25), extension)
    assert torch.equal(explain(X, seed=R), 3 * R)


def test_relevance_into_an_argument_that_is_no_operand_is_refused() -> None:
    """Never dropped in silence: here the first argument depends on the input too."""
    extension = fxlrp.rule_for(blend, operands=["b"])(lambda a, b, weight=0.5, *, out, relevance: relevance)
    with pytest.raises(UnsupportedOpError, match=r"blend.*'a'.*|'a'.*blend"):
        compiled(lambda x: blend(x, 2 * x, 0.25), extension)


def test_a_list_of_operands() -> None:
    extension = fxlrp.rule_for(join, operands=["parts"])(
        lambda parts, *, out, relevance: tuple(relevance * (i + 1) for i, _ in enumerate(parts))
    )
    explain = compiled(lambda x: join([x, 2 * x, x]), extension)
    assert torch.equal(explain(X, seed=R), 6 * R)


def join(parts: list[Tensor]) -> Tensor:
    return torch.einsum("i...->...", torch.stack(parts))


def test_a_rule_that_returns_one_tensor_for_two_operands_is_noticed() -> None:
    """Indexing it would hand each operand one sample of the batch."""
    extension = fxlrp.rule_for(blend, operands=["a", "b"])(lambda a, b, weight=0.5, *, out, relevance: relevance)
    two = torch.cat([X, X + 1])
    with pytest.raises((FxlrpError, TypeError), match=r"blend|tuple"):
        compiled(Blend(), extension)(two, two)


def test_a_rule_that_returns_a_tuple_for_one_operand_is_noticed() -> None:
    extension = fxlrp.rule_for(cube)(lambda x, factor=1.0, *, out, relevance: (relevance,))
    with pytest.raises((FxlrpError, TypeError, AttributeError)):
        compiled(lambda x: cube(x @ WEIGHT), extension)(X)


# Functions of torch


def passes(*args: Any, out: Tensor, relevance: Tensor, **kwargs: Any) -> Tensor:
    return 2 * relevance


@pytest.mark.parametrize(
    ("function", "call"),
    [
        (torch.erf, torch.erf),
        (torch.erf, lambda x: x.erf()),
        (torch.special.erf, torch.special.erf),
        (torch.cumsum, lambda x: torch.cumsum(x, 1)),
        (torch.cumsum, lambda x: torch.cumsum(x, dim=1)),
        (torch.cumsum, lambda x: x.cumsum(1)),
        (torch.pow, lambda x: torch.pow(x, 2)),
        (torch.square, torch.square),
        (torch.Tensor.exp, lambda x: x.exp()),
        (torch.nan_to_num, lambda x: torch.nan_to_num(x, nan=1.0)),
        (F.normalize, lambda x: F.normalize(x, dim=1)),
        (F.normalize, lambda x: F.normalize(x, 2.0, -1)),
        (F.softmin, lambda x: F.softmin(x, dim=1)),
    ],
    ids=[
        "erf",
        "erf_method",
        "special",
        "cumsum",
        "cumsum_keyword",
        "cumsum_method",
        "pow",
        "square",
        "Tensor.exp",
        "nan_to_num",
        "normalize",
        "normalize_positions",
        "softmin",
    ],
)
def test_a_function_of_torch(function: Callable[..., Tensor], call: Callable[[Tensor], Tensor]) -> None:
    explain = compiled(call, fxlrp.rule_for(function)(passes))
    assert torch.equal(explain(X, seed=R), 2 * R)
    assert len(rows(explain)) == 2  # the input and the one call


def test_a_function_of_torch_with_several_operands() -> None:
    """Written in C, it does not tell its parameters; those that the user names must do."""
    extension = fxlrp.rule_for(torch.maximum, operands=["input", "other"])(
        lambda input, other, *, out, relevance: (
            torch.where(input >= other, relevance, 0.0),
            torch.where(input >= other, 0.0, relevance),
        )
    )
    one, other = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 3.0]])
    first, second = compiled(Two(torch.maximum), extension)(one, other, seed=torch.tensor([[7.0, 8.0]])).values()
    assert first.tolist() == [[0.0, 8.0]] and second.tolist() == [[7.0, 0.0]]


def test_the_example_of_the_docstring() -> None:
    @fxlrp.rule_for(torch.erf)
    def erf_relevance(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
        return relevance

    assert torch.equal(compiled(lambda x: torch.erf(x).flatten(1), erf_relevance)(X, seed=R), R)


# Overriding what has a rule


@pytest.mark.parametrize("function", [torch.relu, F.relu], ids=["torch.relu", "F.relu"])
@pytest.mark.parametrize(
    "model",
    [
        torch.relu,
        F.relu,
        lambda x: x.relu(),
        nn.ReLU(),
        nn.ReLU(inplace=True),
        lambda x: x.clone().relu_(),
        lambda x: F.relu(x, inplace=False),
    ],
    ids=["torch.relu", "F.relu", "method", "module", "in_place_module", "method_", "keyword"],
)
def test_an_extension_overrides_a_canonical_operation(function: Any, model: Any) -> None:
    """All of its spellings, as a rule for it should: the operation is one, however it is written."""
    explain = compiled(Net(model), fxlrp.rule_for(function)(passes))
    assert torch.equal(explain(X, seed=R), 2 * R)
    assert "rule_for" in str(explain)


def test_the_canonical_operation_is_overridden_in_this_explainer_only() -> None:
    compiled(torch.tanh, fxlrp.rule_for(torch.tanh)(passes))
    assert torch.equal(compiled(torch.tanh)(X, seed=R), R)


def test_overriding_a_linear_layer() -> None:
    extension = fxlrp.rule_for(F.linear)(lambda input, weight, bias=None, *, out, relevance: relevance @ weight)
    layer = randomize(nn.Linear(3, 3))
    assert_relevance(compiled(layer, extension)(X, seed=R), R @ layer.weight.detach(), 1e-13)


def test_a_pair_precedes_an_extension() -> None:
    """The user's pairs decide, in their order; what they leave open has its own rule."""
    custom = rules.Custom(lambda x, factor=1.0, *, out, relevance: 5 * relevance)
    explain = compiled(lambda x: cube(x), cube_relevance, rules=[("cube", custom)])
    assert torch.equal(explain(X, seed=R), 5 * R)
    assert "user pair 0: cube" in str(explain)
    # A pair that selects it and does not fit leaves it open.
    explain = compiled(lambda x: torch.relu(cube(x)), cube_relevance, rules=[(lambda node: True, rules.PassThrough())])
    assert_relevance(explain(X, seed=R), 100 * R + 10 * X + X**3 + 1, 1e-14)
    assert "rule_for: cube" in str(explain)


# Several extensions


def test_several_extensions() -> None:
    square_root = fxlrp.rule_for(torch.sqrt)(lambda x, *, out, relevance: relevance / 2)
    explain = compiled(
        lambda x: torch.sqrt(torch.erf(blend(x, cube(x)))),
        fxlrp.rule_for(torch.erf)(lambda x, *, out, relevance: 8 * relevance),
        square_root,
        fxlrp.rule_for(cube)(lambda x, factor=1.0, *, out, relevance: 3 * relevance),
        blend_relevance,
    )
    # 1/2 by the root, 8 by erf, then half to x and half to the cube, which makes three of it
    assert torch.equal(explain(X.abs(), seed=R), 4 * (0.5 + 1.5) * R)


def test_two_extensions_for_one_function_are_refused() -> None:
    with pytest.raises(RuleError, match="cube"):
        compiled(lambda x: cube(x), cube_relevance, fxlrp.rule_for(cube)(passes))


def make_twin() -> Callable[[Tensor], Tensor]:
    module = types.ModuleType("twin")
    exec("import torch\ndef cube(x):\n    return torch.erf(x)\n", module.__dict__)
    return module.cube


twin_of_cube = make_twin()


def test_two_functions_of_one_name_are_told_apart() -> None:
    twin = fxlrp.rule_for(twin_of_cube)(lambda x, *, out, relevance: 7 * relevance)
    mine = fxlrp.rule_for(cube)(lambda x, factor=1.0, *, out, relevance: 2 * relevance)
    try:
        explain = compiled(lambda x: twin_of_cube(cube(x)), mine, twin)
    except RuleError as error:
        assert "cube" in str(error)
    else:
        assert torch.equal(explain(X, seed=R), 14 * R)


# Errors


def test_unknown_operand() -> None:
    with pytest.raises(RuleError, match="cube has no argument 'y'; it has: x, factor"):
        fxlrp.rule_for(cube, operands=["x", "y"])


def test_no_operand() -> None:
    with pytest.raises(RuleError, match="cube"):
        fxlrp.rule_for(cube, operands=[])(passes)


@pytest.mark.parametrize("function", ["erf", 3, None], ids=repr)
def test_not_a_function(function: Any) -> None:
    with pytest.raises(RuleError, match=str(function)):
        fxlrp.rule_for(function)(passes)


@pytest.mark.parametrize("function", [nn.Linear, nn.ReLU()], ids=["class", "module"])
def test_a_module_is_no_function(function: Any) -> None:
    """What a module calls is; a rule that would never be used is refused where it is declared, or where it is given."""
    with pytest.raises(RuleError):
        compiled(nn.Linear(3, 3).double(), fxlrp.rule_for(function)(passes))


def test_a_rule_that_is_no_function() -> None:
    with pytest.raises(RuleError, match="Epsilon"):
        fxlrp.rule_for(cube)(rules.Epsilon())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "extensions", [[passes], passes, [("cube", passes)], cube_relevance], ids=["function", "bare", "pair", "not_a_list"]
)
def test_what_is_no_list_of_extensions(extensions: Any) -> None:
    with pytest.raises(RuleError, match="rule_for"):
        fxlrp.compile(Net(lambda x: cube(x)).eval(), extensions=extensions)


def test_a_rule_that_fails_says_so_itself() -> None:
    """The user's own error, as it is."""

    @fxlrp.rule_for(cube)
    def broken(x: Tensor, factor: float = 1.0, *, out: Tensor, relevance: Tensor) -> Tensor:
        raise ZeroDivisionError("of the user")

    explain = compiled(lambda x: cube(x), broken)
    with pytest.raises(ZeroDivisionError, match="of the user"):
        explain(X)


def test_unsupported_operations_beside_an_extension_are_still_listed() -> None:
    with pytest.raises(UnsupportedOpError, match="1 operation has") as caught:
        compiled(lambda x: torch.corrcoef(cube(x)), cube_relevance)
    assert "corrcoef" in str(caught.value)


def test_a_function_that_branches_on_values_is_kept_whole() -> None:
    """What tracing cannot follow is no trouble inside: the error for control flow recommends it."""
    with pytest.raises(CaptureError, match="write a rule for the function"):
        fxlrp.compile(Net(lambda x: branching(x)).eval(), capture="symbolic")
    explain = compiled(lambda x: branching(x) * 3, fxlrp.rule_for(branching)(lambda x, *, out, relevance: relevance))
    assert torch.equal(explain(X, seed=R), R)


def branching(x: Tensor) -> Tensor:
    return -x if x.sum() > 0 else x


# Custom by pair


def test_custom_by_pair() -> None:
    def transposed(
        input: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor, relevance: Tensor
    ) -> Tensor:
        assert bias is not None and torch.allclose(out, F.linear(input, weight, bias))
        return relevance @ weight

    layer = randomize(nn.Linear(3, 3))
    for selector in ("linear", nn.Linear, "*"):
        explain = fxlrp.compile(nn.Sequential(layer).eval(), [(selector, rules.Custom(transposed))])
        assert_relevance(explain(X, seed=R), R @ layer.weight.detach(), 1e-13)


def test_custom_by_pair_for_one_of_two_layers() -> None:
    model = randomize(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)))
    ones = rules.Custom(lambda input, weight, bias=None, *, out, relevance: torch.ones_like(input))
    explain = fxlrp.compile(model, presets.epsilon(0.0).override([("0", ones)]))
    assert torch.equal(explain(X), torch.ones_like(X))
    explain = fxlrp.compile(model, presets.epsilon(0.0).override([("2", ones)]))
    hidden = model[0](X).detach()
    weight = model.get_parameter("0.weight").detach()
    assert_relevance(explain(X), X * ((1 / hidden) @ weight), 1e-12)


def test_custom_for_a_sum() -> None:
    """A tuple, one for each operand; a constant's part goes nowhere."""
    split = rules.Custom(lambda input, other, *, out, relevance: (0.9 * relevance, 0.1 * relevance))
    explain = fxlrp.compile(Two(lambda a, b: a + b).eval(), [("add", split)])
    first, second = explain(X, X, seed=R).values()
    assert torch.equal(first, 0.9 * R) and torch.equal(second, 0.1 * R)
    explain = fxlrp.compile(Net(lambda x: 1.5 + x).eval(), [("add", split)])
    assert torch.equal(explain(X, seed=R), 0.1 * R)


def test_custom_for_a_list_of_tensors() -> None:
    halves = rules.Custom(lambda tensors, dim=0, *, out, relevance: relevance.chunk(2, dim))
    explain = fxlrp.compile(Two(lambda a, b: torch.cat([a, b], 1)).eval(), [("cat", halves)])
    first, second = explain(X, X, seed=torch.cat([R, 2 * R], 1)).values()
    assert torch.equal(first, R) and torch.equal(second, 2 * R)


def test_custom_gets_the_canonical_arguments() -> None:
    """However the model writes the call, the rule sees the operation's own parameters."""
    seen: list[dict[str, Any]] = []

    def note(input: Tensor, kernel_size: Any, *, out: Tensor, relevance: Tensor, **options: Any) -> Tensor:
        seen.append({"kernel_size": kernel_size, **options})
        return torch.zeros_like(input)

    for call in (
        lambda x: F.avg_pool1d(x, 2, 1),
        lambda x: F.avg_pool1d(x, kernel_size=2, stride=1, padding=0),
        lambda x: torch.avg_pool1d(x, 2, stride=1),
    ):
        fxlrp.compile(Net(call).eval(), [("avg_pool1d", rules.Custom(note))])(X)
    assert seen == [{"kernel_size": 2, "stride": 1}] * 3


def test_custom_is_shown_by_the_name_of_its_function() -> None:
    explain = fxlrp.compile(Net(torch.tanh).eval(), [("tanh", rules.Custom(passes))])
    (row,) = (row for row in rows(explain) if row.startswith("tanh"))
    assert "Custom(function=passes)" in row and "user pair 0: tanh" in row


def test_custom_in_the_batch_and_compiled() -> None:
    """The product stays an ordinary graph: the rule's calls are in it, and inference mode and other batches work."""
    explain = compiled(lambda x: cube(x) @ WEIGHT, cube_relevance)
    assert {node.op for node in explain.graph_module.graph.nodes} <= {
        "placeholder",
        "get_attr",
        "call_function",
        "output",
    }
    batch = torch.cat([X, 2 * X, -X])
    with torch.inference_mode():
        together = explain(batch, target=1)
    for i in range(3):
        assert_relevance(together[i : i + 1].clone(), explain(batch[i : i + 1], target=1), 1e-13)

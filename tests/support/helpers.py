"""What tests of many folders share: how they explain a model, and how they compare what comes back."""

from __future__ import annotations

import copy
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxlrp
import zoo
from fxlrp import presets
from fxlrp.rules.preset import Preset
from oracles import EPSILON, One, Three, Two, assert_relevance, random

Function = Callable[..., Tensor]

# The repository.
ROOT = Path(__file__).resolve().parents[2]
FRONT_ENDS = ("symbolic", "export")
LRP0 = presets.epsilon(0.0)
compiler_needed = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


def slow_ones(*values: Any) -> list[Any]:
    """Values of a parameter whose tests are marked slow."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def repeated(*values: Any) -> list[Any]:
    """Values of a parameter whose tests take long and repeat what others show: they run with ``-m repeats`` only."""
    return [pytest.param(value, marks=pytest.mark.repeats) for value in values]


def some_of_each(count: int, cases: Iterable[Any]) -> Iterator[Any]:
    """The cases of a test over operations, which are their first value: of each operation the first of ``count``.

    The others repeat them, with other arguments.
    """
    seen: Counter[str] = Counter()
    for case in cases:
        name = getattr(case.values[0], "operation", case.values[0]).name
        seen[name] += 1
        marks = [*case.marks, *([pytest.mark.repeats] if seen[name] % count != 1 else [])]
        yield pytest.param(*case.values, id=case.id, marks=marks)


def one_in(count: int, cases: Iterable[Any]) -> list[Any]:
    """The cases of a test that runs over many: the first of each ``count``, and, slow, the others."""
    return [case if index % count == 0 else _slow(case) for index, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    if isinstance(case, type(pytest.param())):
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.slow])
    return pytest.param(case, marks=pytest.mark.slow)


def lrp0(model: nn.Module, **options: Any) -> fxlrp.Explainer:
    """An explainer by LRP-0, which is gradient x input on nets of linear maps, sums, ReLUs and max pooling."""
    return fxlrp.compile(model, LRP0, **options)


def epsilon_with(*pairs: Any) -> Preset:
    """Epsilon everywhere, but for the pairs."""
    epsilon = presets.epsilon(EPSILON)
    return epsilon.override(pairs) if pairs else epsilon


def explained(
    model: nn.Module, inputs: tuple[Tensor, ...], seed: Tensor, rules: Any = "epsilon", **options: Any
) -> Any:
    """The relevance of the input, or of several in their order; the explainer gets copies of them."""
    explain = fxlrp.compile(model.eval(), rules=rules, **options)
    relevance = explain(*(t.clone() for t in inputs), seed=seed)
    return tuple(relevance.values()) if isinstance(relevance, dict) else relevance


def of_one(function: Function, x: Tensor, seed: Tensor, rules: Any = "epsilon", **options: Any) -> Tensor:
    relevance = explained(One(function), (x,), seed, rules, **options)
    assert isinstance(relevance, Tensor)
    return relevance


def of_two(
    function: Function, a: Tensor, b: Tensor, seed: Tensor, rules: Any = "epsilon", **options: Any
) -> tuple[Tensor, Tensor]:
    relevance = explained(Two(function), (a, b), seed, rules, **options)
    assert isinstance(relevance, tuple) and len(relevance) == 2
    return relevance


def of_three(
    function: Function, inputs: tuple[Tensor, ...], seed: Tensor, rules: Any = "epsilon", **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    relevance = explained(Three(function), inputs, seed, rules, **options)
    assert isinstance(relevance, tuple) and len(relevance) == 3
    return relevance


def seed_of(y: Tensor) -> Tensor:
    return random(*y.shape, seed=77)


def as_tuple(relevance: Any) -> tuple[Any, ...]:
    """The relevance of every input, also where there is one; files of explanations return tuples."""
    if isinstance(relevance, dict):
        return tuple(relevance.values())
    return relevance if isinstance(relevance, tuple) else (relevance,)


def assert_close(actual: Any, expected: Any) -> None:
    """The same shape, type and numbers, to rounding."""
    if isinstance(expected, tuple):
        assert isinstance(actual, tuple)
        assert len(actual) == len(expected)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def assert_is_gradient(relevance: Any, model: nn.Module, *inputs: Tensor) -> None:
    """Relevance of LRP-0 against an oracle that knows nothing of fxlrp."""
    assert isinstance(relevance, dict) == (len(inputs) > 1)
    expected = zoo.gradient_times_input(model, *inputs)
    for actual, wanted in zip(as_tuple(relevance), expected, strict=True):
        assert wanted.abs().max() > 1e-4
        assert_relevance(actual, wanted, 1e-9)


def line_of(file: Path, marker: str) -> int:
    """The line of a file that ends with the comment `# here: marker`."""
    lines = file.read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if line.endswith(f"# here: {marker}"))
    return number


def place_of(file: Path, marker: str) -> str:
    """File and line of a marker, as fxlrp writes them."""
    return f"{file}:{line_of(file, marker)}"


def assert_names_line(message: str, file: Path, marker: str) -> None:
    assert re.search(rf"{file.name}\D{{1,10}}{line_of(file, marker)}\b", message), message


class Record(fx.Interpreter):
    """Runs a graph and keeps the value of every node."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values = getattr(self, "values", {}) | {n: value}
        return value


def values_of(explain: fxlrp.Explainer, *inputs: Tensor) -> dict[str, Any]:
    """The value of every node of the product, by its name."""
    recorder = Record(explain.graph_module)
    with torch.no_grad():
        recorder.run(*inputs, None, None)
    return {node.name: value for node, value in recorder.values.items()}


def modules_of(model: nn.Module, *kinds: type[nn.Module]) -> int:
    """How many modules of these kinds a model holds."""
    return sum(isinstance(module, kinds) for module in model.modules())


def module_calls(model: nn.Module, *kinds: type[nn.Module]) -> int:
    """How often modules of these kinds run in one pass over an image; of the same module every call counts."""
    model, calls = copy.deepcopy(model).to("meta"), []
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(torch.empty(1, 3, 64, 64, device="meta", dtype=next(model.parameters()).dtype))
    return len(calls)

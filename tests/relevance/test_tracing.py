"""What a trace may contain, and when it is made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

import fxlrp
from fxlrp.relevance import tracing
from fxlrp.relevance.inlining import reads_unwritten
from fxlrp.rules import Gradient
from oracles import One, move_back

aten = torch.ops.aten


def test_memory_that_nothing_has_written() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    empty = graph.call_function(aten.empty_like.default, (x,))
    copied = graph.call_function(aten.copy.default, (empty, x))
    graph.output(copied)
    assert not reads_unwritten(set(graph.nodes))
    with graph.inserting_before(graph.output_node()):
        graph.output_node().args = (graph.call_function(aten.add.Tensor, (empty, x)),)
    assert reads_unwritten(set(graph.nodes))


def test_tensors_are_made_on_the_device_of_the_relevance() -> None:
    explain = fxlrp.compile(One(torch.prod).eval(), example_inputs=torch.rand(3, 4))
    devices = [node.kwargs["device"] for node in explain.graph_module.graph.nodes if "device" in node.kwargs]
    assert devices and not any(isinstance(device, torch.device) for device in devices)
    x = torch.rand(3, 4)
    torch.testing.assert_close(explain(x, seed=lambda output: output), torch.prod(x).expand(3, 4) / 12)


@pytest.fixture
def count() -> Iterator[list[int]]:
    """Forgets what other tests have traced, and counts what is traced."""
    made = [0]

    def counted(*args: object, **kwargs: object) -> object:
        made[0] += 1
        return make_fx(*args, **kwargs)  # type: ignore[arg-type]

    tracing._trace_once.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "make_fx", counted)
        yield made
    tracing._trace_once.cache_clear()


def explained(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The relevance of a function by the gradient, which is compared with the input times autograd's."""
    relevance: Tensor = fxlrp.compile(One(function).eval(), "gradient", example_inputs=x)(x, seed=function(x))
    torch.testing.assert_close(relevance, x * move_back(function, x, torch.ones_like(function(x))))
    return relevance


X = torch.tensor([[0.5, -1.5, 2.0], [1.0, 0.25, -3.0]], dtype=torch.float64)
C = torch.tensor([[0.5, 1.0, 3.0], [2.0, -1.0, 0.75]], dtype=torch.float64)


def test_equal_steps_are_traced_once(count: list[int]) -> None:
    """The steps of equal calls in one model, in other models, and for other questions."""
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda x: torch.asinh(torch.asinh(torch.asinh(x))),
        lambda x: torch.asinh(2 * x),
    ]
    for function in functions:
        explained(function, X)
    explain = fxlrp.compile(One(functions[0]).eval(), "gradient", example_inputs=X)
    explain(X, target=1, at=["x"])
    assert count == [1]


def test_steps_that_differ_are_traced_again(count: list[int]) -> None:
    """In a number, its type, a size, the type of the values, or the operand."""
    functions: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda x: F.softplus(x, 2.0), X),
        (lambda x: F.softplus(x, 0.5), X),
        (lambda x: F.softplus(x, 2), X),
        (lambda x: F.softplus(x, 2.0), X[:, :2]),
        (lambda x: F.softplus(x, 2.0), X.float()),
        (lambda x: torch.linalg.cross(x, C), X),
        (lambda x: torch.linalg.cross(C, x), X),
    ]
    for function, x in functions:
        made = count[0]
        explained(function, x)
        assert count[0] > made


def test_settings_of_torch_count(count: list[int]) -> None:
    explained(torch.asinh, X)
    torch.use_deterministic_algorithms(True)
    try:
        explained(torch.asinh, X)
    finally:
        torch.use_deterministic_algorithms(False)
    assert count == [2]


class Factor:
    value = 2.0


def scaled(x: Tensor) -> Tensor:
    return torch.sinh(x) * Factor.value


@fxlrp.rule_for(scaled)
def passed_on(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
    return relevance


def test_user_defined_functions_are_traced_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they read beside their arguments may have changed."""

    def relevance() -> Tensor:
        model = One(lambda x: scaled(x)).eval()
        explain = fxlrp.compile(model, [("scaled", Gradient())], example_inputs=X, extensions=[passed_on])
        result: Tensor = explain(X, seed=torch.ones_like(X))
        return result * scaled(X)

    first = relevance()
    monkeypatch.setattr(Factor, "value", 3.0)
    torch.testing.assert_close(relevance(), first * 1.5)

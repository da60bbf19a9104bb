"""What waits for the first call: captured once, also by threads that call at the same time, and useful before."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import FxlrpError, InputError
from fxlrp.first_call import NotCapturedError
from oracles import assert_relevance, random


class NeedsExamples(nn.Module):
    """A branch on a size, which symbolic tracing cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 100:
            return self.head(self.first(x))
        return self.head(torch.relu(self.first(x)))


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NeedsExamples().double().eval()


X = random(3, 6)


def by_gradient(model: nn.Module, x: Tensor) -> Tensor:
    """Gradient times input, which is LRP-0 of a net without biases."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    x = x.clone().requires_grad_()
    model(x)[:, 1].sum().backward()
    assert x.grad is not None
    return x.detach() * x.grad


def at_the_same_time(count: int, call: Callable[[int], Any]) -> list[Any]:
    barrier = threading.Barrier(count)

    def wait_and_call(index: int) -> Any:
        barrier.wait()
        return call(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_call, range(count)))


@pytest.mark.parametrize("shared", [True, False], ids=["one explainer", "an explainer each"])
def test_simultaneous_first_calls(shared: bool) -> None:
    call_of_modules = nn.Module.__call__
    models = [net(0 if shared else seed) for seed in range(8)]
    expected = [by_gradient(model, X) for model in models]
    explainers = [fxlrp.compile(model, fxlrp.presets.epsilon(0)) for model in models]
    found = at_the_same_time(8, lambda index: explainers[0 if shared else index](X, target=1))
    for relevance, wanted in zip(found, expected, strict=True):
        assert_relevance(relevance, wanted, 1e-10)
    assert nn.Module.__call__ is call_of_modules


def test_simultaneous_first_calls_of_a_model_with_relevance_in_its_backward() -> None:
    model = net()
    expected = by_gradient(model, X)
    explained = fxlrp.autograd(model, fxlrp.presets.epsilon(0))

    def relevance(_: int) -> Tensor:
        x = X.clone().requires_grad_()
        explained(x)[:, 1].sum().backward()
        assert x.grad is not None
        return x.grad

    for found in at_the_same_time(8, relevance):
        assert_relevance(found, expected, 1e-10)


def test_it_is_captured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    export = torch.export.export

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.export, "export", counting)
    explain = fxlrp.compile(net(), "epsilon")
    at_the_same_time(4, lambda _: explain(X, target=0))
    assert count == 1


def test_moving_it_before_the_first_call_moves_the_model() -> None:
    model = net()
    explain = fxlrp.compile(model, "epsilon")
    assert explain.float() is explain
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert explain(X.float(), target=0).dtype == torch.float32
    assert next(explain.parameters()) is next(model.parameters())


def test_the_state_has_the_same_names_before_and_after() -> None:
    explain = fxlrp.compile(net(), "epsilon")
    before = list(explain.state_dict())
    explain(X, target=0)
    assert list(explain.state_dict()) == before and before


@pytest.mark.parametrize(
    "ask",
    [
        lambda explain, path: explain.save(path / "explain.json"),
        lambda explain, path: explain.code,
        lambda explain, path: explain.table(),
        lambda explain, path: explain.nodes,
        lambda explain, path: explain.stages,
        lambda explain, path: explain.digest(),
        lambda explain, path: explain.front_end,
        lambda explain, path: explain.graph_module,
    ],
    ids="save code table nodes stages digest front_end graph_module".split(),
)
def test_what_is_not_known_yet_says_what_to_do(ask: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    explain = fxlrp.compile(net(), "epsilon")
    with pytest.raises(NotCapturedError, match=r"first call.*example_inputs") as caught:
        ask(explain, tmp_path)
    assert isinstance(caught.value, InputError)
    explain(X, target=0)
    if ask is not None:
        explain.save(tmp_path / "explain.json")


def test_what_takes_inputs_captures_on_them(tmp_path: Path) -> None:
    expected = fxlrp.compile(net(), "epsilon", example_inputs=X)(X, target=0)
    assert fxlrp.compile(net(), "epsilon").debug(X, target=0).at_inputs == pytest.approx(float(expected.sum()))
    assert fxlrp.compile(net(), "epsilon").balance(X, target=0).at_inputs == pytest.approx(float(expected.sum()))
    assert fxlrp.compile(net(), "epsilon", debug=True).check_stages(X).wrong() == ()
    fxlrp.compile(net(), "epsilon").export(tmp_path / "explain.pt2", X, target=0)
    assert_relevance(torch.export.load(tmp_path / "explain.pt2").module()(X), expected, 1e-10)


def test_it_is_shown_in_one_line_before() -> None:
    explain = fxlrp.compile(net(), "epsilon")
    assert repr(explain) == str(explain) == "Explainer(NeedsExamples, captured at the first call)"
    assert type(explain) is fxlrp.Explainer
    explain(X, target=0)
    assert type(explain) is fxlrp.Explainer and "relu" in str(explain)


@pytest.mark.parametrize("called", [False, True], ids=["before the first call", "after it"])
@pytest.mark.parametrize("make", [fxlrp.compile, fxlrp.autograd])
def test_a_copy_has_a_model_of_its_own(make: Any, called: bool) -> None:
    model = net()
    made = make(model, "epsilon")
    if called:
        made(X)
    copied = copy.deepcopy(made)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert not made(X).any()
    assert copied(X).abs().max() > 0


def test_an_error_at_the_first_call_leaves_it_to_the_second() -> None:
    explain = fxlrp.compile(net(), "epsilon")
    with pytest.raises(FxlrpError):
        explain(X, X)
    assert explain(X, target=0).shape == X.shape

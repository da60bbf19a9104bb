"""Capturing leaves no trace on the model, and what it holds stays live."""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp.errors import CaptureError
from helpers import assert_is_gradient, lrp0
from oracles import random, randomize
from traces import Stacked, Unchanged, proxies_in


class Stores(nn.Module):
    """Keeps what it computes: by attribute, in a list, in a dictionary, on a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        self.kept: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        self.last = x
        self.kept.append(x)
        self.by_name["conv"] = x
        self.conv.seen = x
        self.new_attribute = x
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("ran_before", [False, True], ids=["fresh", "has_run"])
@pytest.mark.parametrize("gradient", [False, True], ids=["no_grad", "grad"])
def test_a_model_that_stores_activations_keeps_no_proxy(ran_before: bool, gradient: bool) -> None:
    model: Any = randomize(Stores())
    x = random(2, 3, 5, 5)
    if ran_before:
        with torch.set_grad_enabled(gradient):
            model(x)
    kept = list(model.kept)
    with Unchanged(model):
        explain = lrp0(model.eval())
        assert not proxies_in(model)
        explain(x)
        str(explain), explain.code
        assert not proxies_in(model)
    assert len(model.kept) == len(kept) == int(ran_before)
    assert hasattr(model, "new_attribute") == ran_before
    assert_is_gradient(explain(x), model, x)


def test_a_model_that_counts_its_calls_counts_none() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.linear(x)

    model = randomize(Counts())
    with Unchanged(model):
        lrp0(model.eval())(random(2, 4))
    assert model.calls == 0


class MakesConstants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
        x = self.linear(x + torch.arange(4, dtype=torch.float64))
        return x[:, torch.tensor([2, 0])] + torch.eye(2, dtype=torch.float64)[0]


def test_constants_made_in_forward_do_not_land_on_the_model() -> None:
    model, x = randomize(MakesConstants()), random(2, 4)
    keys = list(vars(model))
    with Unchanged(model):
        explain = lrp0(model.eval())
        explain(x)
    assert list(vars(model)) == keys
    assert not [name for name, _ in model.named_buffers()]
    assert_is_gradient(explain(x), model, x)
    # They belong to the product: they move with it, and its state is complete.
    held = dict(explain.graph_module.named_buffers())
    assert len(held) >= 4
    single = explain.float()
    assert single(x.float()).dtype == torch.float32


def test_two_explainers_of_one_model_share_no_constants() -> None:
    model, x = randomize(MakesConstants()), random(2, 4)
    first, second = lrp0(model.eval()), lrp0(model.eval())
    names = {id(buffer) for buffer in first.graph_module.buffers()}
    assert not names & {id(buffer) for buffer in second.graph_module.buffers()}
    assert torch.equal(first(x), second(x))


class Tables(nn.Module):
    """Tensors that are neither parameters nor buffers: an attribute, a list, a dictionary, one of another object."""

    def __init__(self) -> None:
        super().__init__()
        self.attribute = random(4, seed=1)
        self.listed = [random(4, seed=2)]
        self.named = {"gain": random(4, seed=3)}

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attribute + x * self.listed[0] - x * self.named["gain"]


@pytest.mark.parametrize("place", ["attribute", "listed", "named"])
def test_tensors_that_are_no_buffers_are_live(place: str) -> None:
    """Never stale: a change in place is followed, wherever the tensor is kept."""
    model, x = Tables().eval(), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model.eval())
    assert_is_gradient(explain(x), model, x)
    changed = {"attribute": model.attribute, "listed": model.listed[0], "named": model.named["gain"]}[place]
    before = explain(x)
    changed.mul_(-2.0)
    assert_is_gradient(explain(x), model, x)
    assert not torch.equal(explain(x), before)


def test_a_tensor_attribute_that_is_replaced_is_followed() -> None:
    model, x = Tables().eval(), random(2, 4)
    explain = lrp0(model.eval())
    explain(x)
    model.attribute = random(4, seed=8)
    assert_is_gradient(explain(x), model, x)


@pytest.mark.parametrize("persistent", [True, False], ids=["persistent", "not_persistent"])
def test_buffers_are_live(persistent: bool) -> None:
    class Buffered(nn.Module):
        gain: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("gain", random(4), persistent=persistent)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain + x

    model, x = Buffered().eval(), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model.eval())
    assert_is_gradient(explain(x), model, x)
    model.gain.mul_(3)
    assert_is_gradient(explain(x), model, x)
    model.gain = random(4, seed=5)
    assert_is_gradient(explain(x), model, x)


def test_an_explainer_keeps_its_model_and_nothing_else_alive() -> None:
    model = randomize(Stacked())
    watch = weakref.ref(model)
    explain = lrp0(model.eval())
    assert watch() is model and explain.graph_module.model is model
    del model, explain
    import gc

    gc.collect()
    assert watch() is None


def test_a_model_that_cannot_be_copied_is_named() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = (item for item in "")

        def forward(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(CaptureError, match=r"Holds cannot be copied.*generator"):
        fxlrp.compile(Holds().eval())


def test_methods_and_functions_kept_as_attributes() -> None:
    """A bound method of the model, a partial, a function that closes over nothing: all belong to what is traced."""

    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.norm = functools.partial(torch.mul, torch.tensor(2.0, dtype=torch.float64))
            self.steps: list[Callable[[Tensor], Tensor]] = [self.first, torch.relu, self.linear]

        def first(self, x: Tensor) -> Tensor:
            return self.linear(x) + 1

        def forward(self, x: Tensor) -> Tensor:
            for step in self.steps:
                x = self.norm(step(x))
            return x

    model, x = randomize(Bound()), random(2, 4)
    with Unchanged(model):
        explain = lrp0(model.eval())
        explain(x)
    assert not proxies_in(model)
    assert_is_gradient(explain(x), model, x)

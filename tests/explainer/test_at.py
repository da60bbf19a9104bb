"""Relevance at a named node or module in place of the inputs."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp.errors import InputError
from helpers import LRP0
from oracles import assert_relevance, random


class Skips(nn.Module):
    """Two blocks with a skip connection around each; `act` is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.Sequential(nn.ReLU())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.act(x + self.block(x))
        x = self.act(x - self.last(x))
        return self.head(x.mean((2, 3)))


def skips() -> Skips:
    return zoo.initialise(Skips().double())


def gradient_times_activation(model: nn.Module, module: nn.Module, x: Tensor, target: int) -> Tensor:
    """LRP-0 at a module's output by autograd: the activation times the logit's gradient for it."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: outputs.append(output))
    logits = model(x)
    handle.remove()
    (activation,) = outputs
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), activation)
    return (activation * gradient).detach()


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("path", ["stem", "stem.0", "block", "block.2", "last", "head"])
def test_the_relevance_of_a_modules_output(path: str, capture: Any) -> None:
    model, x = skips(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model, LRP0, at=path, capture=capture, example_inputs=x)
    expected = gradient_times_activation(model, model.get_submodule(path), x, 1)
    assert expected.abs().sum() > 0
    assert_relevance(explain(x, target=1), expected, 1e-12)


def test_the_relevance_of_a_node_and_of_the_input() -> None:
    model, x = skips(), random(2, 2, 6, 6)
    whole = fxlrp.compile(model, "epsilon_plus")
    assert_relevance(fxlrp.compile(model, "epsilon_plus", at="x")(x, target=1), whole(x, target=1), 0.0)
    first, second = (fxlrp.compile(model, LRP0, at=name)(x, target=1) for name in ("act_0", "act_1"))
    kept: list[Tensor] = []
    model.act.register_forward_hook(lambda module, args, output: kept.append(output))
    logit = model(x)[:, 1].sum()
    for relevance, activation in zip((first, second), kept, strict=True):
        (gradient,) = torch.autograd.grad(logit, activation, retain_graph=True)
        assert_relevance(relevance, (activation * gradient).detach(), 1e-12)


def test_the_balance_ends_where_relevance_is_asked_for() -> None:
    model, x = skips(), random(2, 2, 6, 6)
    explain = fxlrp.compile(model, "epsilon", at="stem")
    balance = explain.balance(x, target=1)
    assert balance.at_inputs == pytest.approx(float(explain(x, target=1).sum()), rel=1e-9)


def test_steps_behind_it_are_not_computed() -> None:
    model = skips()
    explain = fxlrp.compile(model, at="last")
    assert "conv_transpose2d" not in explain.code and "convolution_backward" not in explain.code
    assert "linear" in explain.code


def test_embeddings_have_the_relevance_of_their_tokens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 6), nn.ReLU(), nn.Flatten(1), nn.Linear(24, 3)).double()
    tokens = torch.tensor([[1, 3, 3, 8], [0, 2, 5, 1]])
    at = fxlrp.compile(model.eval(), LRP0, at="0")(tokens, target=2)
    assert_relevance(at, gradient_times_activation(model, model[0], tokens, 2), 1e-12)
    assert_relevance(at.sum(-1), fxlrp.compile(model, LRP0)(tokens, target=2), 1e-12)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("nowhere", "no node and no module has this name"),
        ("act", "called more than once: choose 'act_0', 'act_1'"),
        ("stem_0_weight", "no relevance reaches the node 'stem_0_weight'"),
    ],
)
def test_what_cannot_be_found_is_an_error(at: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fxlrp.compile(skips(), at=at)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_a_module_with_the_same_operation_twice_means_its_output(capture: Any) -> None:
    """No operation inside it takes its name: the first one has another value than the module."""

    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 1.0) + x

    layers = {"first": nn.Linear(4, 4), "sums": Sums(), "head": nn.Linear(4, 3)}
    model, x = nn.Sequential(OrderedDict(layers)).double().eval(), random(2, 4)
    explain = fxlrp.compile(model, LRP0, capture=capture, example_inputs=x)
    assert_relevance(explain(x, target=1, at="sums"), gradient_times_activation(model, layers["sums"], x, 1), 1e-12)

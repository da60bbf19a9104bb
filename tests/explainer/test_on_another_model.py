"""The same programs for another copy of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from certified import Recurrent
from derivatives import NETS, made
from fxlrp.errors import InputError
from oracles import assert_relevance, random


def _other(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return other


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_it_explains_the_other_model(net: str, optimize: bool) -> None:
    torch.manual_seed(2)
    model, x = made(net)
    other = _other(model)
    explain = fxlrp.compile(model, "epsilon_plus", optimize=optimize, example_inputs=x)
    expected, own = explain(x, target=1), fxlrp.compile(other, "epsilon_plus", example_inputs=x)
    on_other = explain.on(other)
    for _ in range(2):
        assert_relevance(on_other(x, target=1), own(x, target=1), 1e-12)
        assert_relevance(explain(x, target=1), expected, 1e-12)
    # Its weights are live, and other questions are asked of it alone.
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.2)
    targets = fxlrp.targets.each([0, 2])
    assert_relevance(on_other(x, target=targets), own(x, target=targets), 1e-12)
    assert_relevance(explain(x, target=1), expected, 1e-12)
    output = other(x).detach()
    assert_relevance(on_other(x, target=1, return_output=True)[1], output, 1e-12)
    assert on_other.debug(x, target=1).explained == pytest.approx(float(output[:, 1].sum()))


def test_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = made("convolutions")
    explain = fxlrp.compile(model, "epsilon_plus")
    expected = fxlrp.compile(_other(model), "epsilon_plus")
    explain(x, target=1, at="0")
    assert "conv" in explain.graph_module.code
    other = expected.graph_module.get_submodule("model")

    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(torch.fx.GraphModule, "recompile", fails)
    assert_relevance(explain.on(other)(x, target=1), expected(x, target=1), 1e-12)
    assert explain.on(other)(x, target=1, at="0").shape == (2, 4, 6, 6)
    assert explain.on(other).graph_module.graph is explain.graph_module.graph


def test_moving_one_does_not_move_the_other() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.linear = torch.tensor([1.0, 2.0, 3.0]), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x + self.shift)

    model, x = Shifted().eval(), random(2, 3).float()
    other = copy.deepcopy(model)
    explain = fxlrp.compile(model, "epsilon")
    expected = explain(x, target=1)
    explain.on(other).double()
    assert_relevance(explain(x, target=1), expected, 1e-6)
    assert explain(x, target=1).dtype == torch.float32
    other.float().shift = torch.tensor([1.0, 2.0, 4.0])
    with pytest.raises(InputError, match="'shift'"):
        explain.on(other)


def test_before_the_first_call_and_for_further_sizes() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] > 4:
                x = x * 2
            return self.linear(x).sum(1)

    model = Branches().double().eval()
    other = _other(model)
    explain = fxlrp.compile(model, "epsilon").on(other)
    own = fxlrp.compile(other, "epsilon")
    for length in (3, 6):
        x = random(2, length, 3)
        assert_relevance(explain(x, target=1), own(x, target=1), 1e-12)


def test_a_differentiable_explainer() -> None:
    model, x = made("gated MLP")
    other = _other(model)
    explain = fxlrp.compile(model, "epsilon", differentiable=True).on(other)
    explain(x, target=1).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for name, parameter in other.named_parameters() if "weight" in name)


class _Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale, self.linear = scale, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self._scale


_MODEL: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1), nn.Linear(4, 2))  # noqa: E731


@pytest.mark.parametrize(
    ("model", "other", "message"),
    [
        (_MODEL(), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), "module '1' is ReLU, not LeakyReLU"),
        (_MODEL(), nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.2), nn.Linear(4, 2)), "negative_slope=0.2"),
        (_MODEL(), nn.Sequential(nn.Linear(3, 5), nn.LeakyReLU(0.1), nn.Linear(5, 2)), r"'0.weight' is \(5, 3\)"),
        (_MODEL(), _MODEL().double(), "torch.float64"),
        (_MODEL(), nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1)), "does not have the module '2'"),
        (_MODEL(), nn.Sequential(nn.Linear(3, 4, bias=False), nn.LeakyReLU(0.1), nn.Linear(4, 2)), "'0.bias'"),
        (_Scaled(1.0), _Scaled(2.0), "attribute '_scale'"),
        (_MODEL(), "model", "takes a model, not a str"),
    ],
)
def test_another_structure_is_refused(model: nn.Module, other: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fxlrp.compile(model.eval()).on(other)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_list_their_weights_among_their_attributes(kind: Any) -> None:
    torch.manual_seed(0)
    model, other = (Recurrent(kind(4, 6, batch_first=True)).eval() for _ in range(2))
    x = random(2, 5, 4).float()
    explain = fxlrp.compile(model, "epsilon", example_inputs=x)
    expected = fxlrp.compile(other, "epsilon", example_inputs=x)(x, target=1)
    assert_relevance(explain.on(other)(x, target=1), expected, 1e-6)

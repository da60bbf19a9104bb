"""Coefficients of recurrent layers and of norms that only scale, against gradients of detached twins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from certified import Recurrent, gru_twin, lstm_twin
from fxlrp import presets
from oracles import assert_relevance, random, randomize

TWINS: dict[str, tuple[Any, Any]] = {"lstm": (nn.LSTM, lstm_twin), "gru": (nn.GRU, gru_twin)}


@pytest.mark.parametrize("kind", TWINS)
def test_of_a_recurrent_layer_they_are_the_gradient_of_its_twin_also_where_the_input_is_zero(kind: str) -> None:
    layer, twin = TWINS[kind]
    model, x = randomize(Recurrent(layer(4, 6, batch_first=True))).double().eval(), random(2, 5, 4)
    x[:, 1:3] = 0.0
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(twin(model, leaf)[:, 1].sum(), leaf)
    explain = fxlrp.compile(model, presets.epsilon(0.0), example_inputs=x)
    coefficient = explain(x, target=1, coefficients=True)
    assert_relevance(coefficient, gradient, 1e-12)
    assert gradient[x == 0].abs().min() > 0
    # Relevance is computed by other code.
    assert_relevance(explain(x, target=1), coefficient * x, 1e-9)


DEEP: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn_tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "rnn_relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {"proj_size": 3}),
    "gru": (nn.GRU, {}),
}


@pytest.mark.parametrize("kind", DEEP)
def test_of_deep_layers_in_both_directions_they_times_the_input_are_the_relevance(kind: str) -> None:
    layer, options = DEEP[kind]
    deep = layer(4, 6, num_layers=2, bidirectional=True, batch_first=True, **options)
    model, x = randomize(Recurrent(deep)).double().eval(), random(2, 3, 4)
    explain = fxlrp.compile(model, presets.epsilon(0.1), example_inputs=x)
    assert_relevance(explain(x, target=1, coefficients=True) * x, explain(x, target=1), 1e-9)


class Scaled(nn.Module):
    """A norm in front of a dense layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.head = norm, nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(x).flatten(1))
        return scores


def root_mean_square(x: Tensor) -> Tensor:
    return (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


def response(x: Tensor) -> Tensor:
    """Of three neighboring channels, as in the paper, with zeros beside the first and the last."""
    squares = torch.zeros_like(x[:, :1])
    squares = torch.cat([squares, x.square(), squares], 1)
    return (2.0 + 0.5 * (squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]) / 3) ** -0.75


NORMS: dict[str, tuple[Any, Any]] = {
    "rms_norm": (lambda: nn.RMSNorm(4, eps=1e-5), root_mean_square),
    "local_response_norm": (lambda: nn.LocalResponseNorm(3, alpha=0.5, beta=0.75, k=2.0), response),
}


@pytest.mark.parametrize("name", NORMS)
def test_of_a_norm_that_scales_they_are_the_gradient_with_its_scale_detached(name: str) -> None:
    norm, scale = NORMS[name]
    model, x = randomize(Scaled(norm())).double().eval(), random(2, 6, 4)
    x[0, 2] = x[1, :, 1] = 0.0
    leaf = x.clone().requires_grad_()
    scaled = leaf * scale(x)
    if isinstance(model.norm, nn.RMSNorm):
        scaled = scaled * model.norm.weight
    torch.testing.assert_close(scaled, model.norm(x))
    (gradient,) = torch.autograd.grad(model.head(scaled.flatten(1))[:, 2].sum(), leaf)
    explain = fxlrp.compile(model, presets.epsilon(0.0), example_inputs=x)
    assert_relevance(explain(x, target=2, coefficients=True), gradient, 1e-12)


class Selected(nn.Module):
    """Selections whose steps are derived, of one result and of several, and of two operands."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        median = torch.kthvalue(y, 2, dim=1, keepdim=True)[0]
        windows = y.as_strided((len(x), 2, 4), (6, 2, 1)).amin(1)
        rows = torch.cat([windows, torch.fmax(median, y[:, :1]), torch.fmin(y[:, 1:2], y[:, 2:3])], 1)
        scores: Tensor = self.head(torch.fliplr(rows))
        return scores


def test_of_selections_they_are_the_gradient() -> None:
    model, x = randomize(Selected()).double().eval(), random(3, 6)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    explain = fxlrp.compile(model, presets.cplrp(0.0), example_inputs=x)
    assert_relevance(explain(x, target=1, coefficients=True), gradient, 1e-12)
    assert explain.certify(x, target=1).is_exact

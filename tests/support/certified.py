"""Networks of many families for certificates, and twins of some in which what CP-LRP holds constant is detached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from detaching import Style, inputs_of, made, multiplied
from oracles import random, randomize


class Recurrent(nn.Module):
    """A recurrent layer whose outputs and last state are both read."""

    def __init__(self, layer: nn.LSTM | nn.GRU | nn.RNN) -> None:
        super().__init__()
        self.layer = layer
        self.head = nn.Linear((layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = self.layer(x)
        last = state[0] if isinstance(state, tuple) else state
        scores: Tensor = self.head(outputs[:, -1]) + last[-1].sum(-1, keepdim=True)
        return scores


class Excited(nn.Module):
    """Squeeze and excitation, group normalization, GELU and a class token: gates, statistics and a constant operand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.GroupNorm(4, 8)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)
        self.mix = nn.Linear(8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.stem(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        x = F.max_pool2d(x * gate[:, :, None, None], 2)
        rows = torch.cat([self.token.expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
        scores: Tensor = self.head(F.silu(self.mix(rows)).mean(1))
        return scores


def excited_twin(model: Excited, x: Tensor) -> Tensor:
    """The same values, with the gate, the statistic and the ratios of activations detached."""
    y = model.stem(x)
    grouped = y.reshape(len(y), 4, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    sigma = (centred.square().mean(-1, keepdim=True) + model.norm.eps).sqrt().detach()
    y = (centred / sigma).reshape(y.shape) * model.norm.weight[:, None, None] + model.norm.bias[:, None, None]
    y = multiplied(F.gelu, y)
    gate = torch.sigmoid(model.excite(F.relu(model.squeeze(y.mean((2, 3)))))).detach()
    y = F.max_pool2d(y * gate[:, :, None, None], 2)
    rows = torch.cat([model.token.expand(len(y), -1, -1), y.flatten(2).transpose(1, 2)], 1)
    scores: Tensor = model.head(multiplied(F.silu, model.mix(rows)).mean(1))
    return scores


def lstm_twin(model: Recurrent, x: Tensor) -> Tensor:
    """One layer in one direction, with the input, forget and output gates and the ratios of tanh detached."""
    layer = model.layer
    w, u, b, d = (getattr(layer, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))
    h = c = x.new_zeros(len(x), layer.hidden_size)
    for value in x.unbind(1):
        gates = F.linear(value, w, b) + F.linear(h, u, d)
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid().detach() * c + i.sigmoid().detach() * multiplied(torch.tanh, g)
        h = o.sigmoid().detach() * multiplied(torch.tanh, c)
    scores: Tensor = model.head(h) + h.sum(-1, keepdim=True)
    return scores


def gru_twin(model: Recurrent, x: Tensor) -> Tensor:
    """One layer in one direction, with the reset and update gates and the ratio of tanh detached."""
    layer = model.layer
    w, u, b, d = (getattr(layer, name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"))
    h = x.new_zeros(len(x), layer.hidden_size)
    for value in x.unbind(1):
        r_in, z_in, n_in = F.linear(value, w, b).chunk(3, -1)
        r_state, z_state, n_state = F.linear(h, u, d).chunk(3, -1)
        reset, z = (r_in + r_state).sigmoid().detach(), (z_in + z_state).sigmoid().detach()
        h = (1 - z) * multiplied(torch.tanh, n_in + reset * n_state) + z * h
    scores: Tensor = model.head(h) + h.sum(-1, keepdim=True)
    return scores


class Messages(nn.Module):
    """Two rounds of messages along the edges of a graph; the edges are an input that is constant."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.sent = nn.Linear(4, 6), nn.Linear(4, 6)
        self.out, self.along = nn.Linear(6, 3), nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[0], edges[1]
        h = F.elu(self.own(x) + torch.zeros(len(x), 6, dtype=x.dtype).index_add(0, target, self.sent(x)[source]))
        own: Tensor = self.out(h)
        return own + torch.zeros(len(x), 3, dtype=x.dtype).index_add(0, target, self.along(h)[source])


class Normed(nn.Module):
    """Norms of every kind, behind each other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.instance = nn.InstanceNorm2d(6, affine=True)
        self.response = nn.LocalResponseNorm(3)
        self.layer = nn.LayerNorm([6, 4, 4])
        self.batch = nn.BatchNorm2d(6)
        self.root = nn.RMSNorm(4, eps=1e-5)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.response(F.relu(self.instance(self.conv(x))))
        x = self.root(self.batch(self.layer(x)))
        scores: Tensor = self.head(x.amax(-1).flatten(1))
        return scores


def _images() -> tuple[Tensor, ...]:
    return (random(2, 3, 8, 8),)


def _steps() -> tuple[Tensor, ...]:
    return (random(2, 5, 4),)


def _edges() -> tuple[Tensor, ...]:
    return random(5, 4), torch.tensor([[0, 1, 2, 3, 3, 4], [1, 2, 0, 4, 1, 3]])


def _language_model(**style: Any) -> Callable[[], nn.Module]:
    return lambda: made(Style(**style))


def _tokens() -> tuple[Tensor, ...]:
    return inputs_of(Style())


# The model, its inputs, and the target.
NETS: Mapping[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]], Any]] = {
    "excitation": (Excited, _images, 2),
    "norms": (Normed, lambda: (random(2, 2, 6, 6),), 1),
    "lstm": (lambda: Recurrent(nn.LSTM(4, 6, batch_first=True)), _steps, 1),
    "deep_lstm": (
        lambda: Recurrent(nn.LSTM(4, 6, num_layers=2, bidirectional=True, proj_size=3, batch_first=True)),
        _steps,
        1,
    ),
    "gru": (lambda: Recurrent(nn.GRU(4, 6, batch_first=True)), _steps, 0),
    "deep_gru": (lambda: Recurrent(nn.GRU(4, 6, num_layers=2, bidirectional=True, batch_first=True)), _steps, 0),
    "rnn": (lambda: Recurrent(nn.RNN(4, 6, nonlinearity="relu", bias=False, batch_first=True)), _steps, 2),
    "graph": (Messages, _edges, 1),
    "encoder_layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu"),
        lambda: (random(2, 5, 8),),
        (1, 3),
    ),
    "causal_language_model": (_language_model(way="eager"), _tokens, (-1, 3)),
    "causal_language_model_fused": (_language_model(), _tokens, (-1, 3)),
    "encoder": (
        _language_model(way="softmax", mask="padding", encoder=True),
        lambda: inputs_of(Style(mask="padding")),
        (2, 3),
    ),
}
NAMES = (*NETS, *zoo.SMALL_NETS)


def net(name: str) -> tuple[nn.Module, tuple[Tensor, ...], Any, dict[str, Any]]:
    """A network in double precision with random parameters, its inputs, a target, and options of the compilation."""
    if name in zoo.SMALL_NETS:
        model, inputs = zoo.small_net(name)
        return model, inputs, (1, ..., ...) if name == "output_per_pixel" else 1, {"example_inputs": inputs}
    build, make_inputs, target = NETS[name]
    model, inputs = build(), make_inputs()
    if name not in ("causal_language_model", "causal_language_model_fused", "encoder"):
        model = randomize(model)
    options = {"constants": ["edges"]} if name == "graph" else {}
    return model.double().eval(), inputs, target, {"example_inputs": inputs, **options}

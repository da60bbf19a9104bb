"""Models for derivatives of explanations, and their oracle: central differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import fxlrp
from fxlrp import presets
from fxlrp.rules.preset import Preset

STEP = 1e-6


class GatedMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(5, 6, bias=False), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


def _heads(x: Tensor) -> Tensor:
    heads: Tensor = x.unflatten(-1, (2, 2)).transpose(1, 2)
    return heads


class Block(nn.Module):
    """A transformer block of two heads with a causal mask, and a head on the last position."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(4), nn.RMSNorm(4)
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        self.mlp, self.head = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.before(x)).chunk(3, -1)
        mixed = F.scaled_dot_product_attention(_heads(q), _heads(k), _heads(v), is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.mlp(self.after(x))
        return self.head(x[:, -1])  # type: ignore[no-any-return]


def _conv() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(1), nn.Linear(3, 3)), torch.rand(2, 2, 6, 6)


def _folded() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(1), nn.Linear(12, 4), nn.BatchNorm1d(4)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(4, 3))
    for norm in (model[1], model[5]):
        assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    return model, torch.rand(2, 1, 4, 4)


NETS: Mapping[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "convolutions": _conv,
    "folded BatchNorm": _folded,
    "gated MLP": lambda: (GatedMLP(), torch.randn(2, 5)),
    "transformer block": lambda: (Block(), torch.randn(2, 3, 4)),
}


def _smooth(make: Callable[..., Preset]) -> Preset:
    """A preset with a stabilizer of the size of the sums, so that relevance is smooth on the scale of a difference."""
    return make(epsilon=0.1) if "epsilon" in signature(make).parameters else make()


PRESETS: Mapping[str, Preset] = {
    **{name: _smooth(make) for name, make in presets.PRESETS.items() if name != "epsilon_gamma_box"},
    "epsilon_gamma_box": presets.epsilon_gamma_box(-1.0, 2.0, epsilon=0.1),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A network in double precision and its input."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model, x = NETS[name]()
    return model.double().eval(), x.double()


def quotient(function: Callable[[Mapping[str, Tensor]], Tensor], at: Mapping[str, Tensor], along: Any) -> Tensor:
    """The central difference of a function along a direction."""
    above, below = ({name: value + sign * STEP * along[name] for name, value in at.items()} for sign in (1, -1))
    return (function(above) - function(below)) / (2 * STEP)


def assert_is_derivative(explain: fxlrp.Explainer, plain: fxlrp.Explainer, x: Tensor, **asked: Any) -> None:
    """Compare the gradients of a sum of relevance with differences of another explainer, for input and parameters."""
    torch.manual_seed(5)
    model = explain.graph_module.get_submodule("model")
    tensors = {"": x, **{f"graph_module.model.{name}": value.detach() for name, value in model.named_parameters()}}
    along = {name: torch.randn_like(value) for name, value in tensors.items()}
    given = x.clone().requires_grad_()
    relevance = explain(given, **asked)
    weights = torch.randn_like(relevance)
    leaves = {"": given, **{f"graph_module.model.{name}": value for name, value in model.named_parameters()}}
    found = torch.autograd.grad((relevance * weights).sum(), list(leaves.values()), allow_unused=True)

    def loss(values: Mapping[str, Tensor]) -> Tensor:
        parameters = {name: value for name, value in values.items() if name}
        explained: Tensor = functional_call(plain, parameters, (values[""],), asked)
        return (explained * weights).sum()

    for name, gradient in zip(tensors, found, strict=True):
        expected = quotient(loss, tensors, {**dict.fromkeys(tensors, 0.0), name: along[name]})
        actual = torch.zeros_like(expected) if gradient is None else (gradient * along[name]).sum()
        off = (actual - expected).abs() / expected.abs().clamp(min=1)
        assert off <= 1e-5, f"{name}: {actual} instead of {expected}"

"""Gated MLPs in the styles of today's models, against closed forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transformer_oracles as oracle
from helpers import FRONT_ENDS, assert_close, explained
from oracles import randomize
from transformer_oracles import CONVENTIONS
from transformer_parts import SEED, X


class GatedMLP(nn.Module):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.gate = randomize(nn.Linear(6, 5, bias=False), 1)
        self.up = randomize(nn.Linear(6, 5, bias=False), 2)
        self.down = randomize(nn.Linear(5, 6, bias=False), 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x), self.up(x)
        if self.style == "SwiGLU":
            hidden = F.silu(gate) * up
        elif self.style == "silu by hand":
            hidden = gate * torch.sigmoid(gate) * up
        elif self.style == "GEGLU":
            hidden = up * F.gelu(gate)
        elif self.style == "tanh GEGLU":
            hidden = up * F.gelu(gate, approximate="tanh")
        elif self.style == "chunk":
            first, second = torch.cat([up, gate], -1).chunk(2, -1)
            hidden = first * torch.sigmoid(second)
        else:
            hidden = F.glu(torch.cat([up, gate], dim=-1), dim=-1)
        return self.down(hidden)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "SwiGLU": F.silu,
    "GEGLU": F.gelu,
    "tanh GEGLU": lambda x: F.gelu(x, approximate="tanh"),
    "chunk": torch.sigmoid,
    "F.glu": torch.sigmoid,
}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("style", ACTIVATIONS)
def test_gated_mlp(style: str, convention: str) -> None:
    """All to the up projection, or half each; the gate's activation passes its half on."""
    model, conventions = GatedMLP(style), CONVENTIONS[convention]
    gate, gate_back = oracle.linear(X, model.gate.weight.detach(), None)
    up, up_back = oracle.linear(X, model.up.weight.detach(), None)
    hidden, hidden_back = oracle.gated(up, gate, ACTIVATIONS[style], conventions)
    _, down_back = oracle.linear(hidden, model.down.weight.detach(), None)
    at_up, at_gate = hidden_back(down_back(SEED))
    assert_close(explained(model, (X,), SEED, convention), up_back(at_up) + gate_back(at_gate))


@pytest.mark.parametrize("style", ["SwiGLU", "F.glu"])
def test_gated_mlp_through_both_front_ends(style: str) -> None:
    for preset in (None, "attnlrp"):
        first, second = (explained(GatedMLP(style), (X,), SEED, preset, capture=capture) for capture in FRONT_ENDS)
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)

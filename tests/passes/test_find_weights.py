"""find_weights: which factors of products are weights that a signal selects for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxlrp.errors import RuleError
from fxlrp.passes.find_weights import find_weights
from fxlrp.rules import Selective
from pass_programs import before, program_after
from state_space import Mixer


class Product(nn.Module):
    """A function of x and of a linear map of it."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.first, self.second = function, nn.Linear(4, 4), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.function(x, self.second(x))


def gate_of_parts(x: Tensor, y: Tensor) -> Tensor:
    """A gated MLP whose activation is written out: the signal does not select the gate, for they are parts."""
    signal, gate = y.chunk(2, -1)
    return F.silu(signal.cumsum(1)) * (gate * torch.sigmoid(gate))


def excitation(x: Tensor, y: Tensor) -> Tensor:
    return torch.sigmoid(y[..., :4].mean(1, keepdim=True)) * x


FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], list[tuple[int, ...]]]] = {
    "the signal selects the weight": (lambda x, y: x * y[..., :4], [(1,)]),
    "in the other order": (lambda x, y: y[..., :4] * x, [(0,)]),
    "squeeze and excitation": (excitation, [(0,)]),
    "a weight of a sum": (lambda x, y: (x.cumsum(1) + 2 * x) @ y[..., :4].mT, [(1,)]),
    "einsum": (lambda x, y: torch.einsum("bti,bsi->bts", y[..., :4], x), [(0,)]),
    "a product that is weighted again": (lambda x, y: x * y[..., :4] * y[..., 4:], [(1,), (1,)]),
    "two parts": (lambda x, y: y.chunk(2, -1)[0] * y.chunk(2, -1)[1], []),
    "a gate of parts": (gate_of_parts, [(1,)]),
    "a square": (lambda x, y: x * x, []),
    "a scale": (lambda x, y: y.chunk(2, -1)[0].exp() * y.chunk(2, -1)[1], [(0,)]),
    "a clamped scale": (lambda x, y: y.chunk(2, -1)[1] * F.softplus(y.chunk(2, -1)[0]).clamp(0.1, 1.0), [(1,)]),
    "two scales": (lambda x, y: y.chunk(2, -1)[0].exp() * y.chunk(2, -1)[1].exp(), []),
    "a softplus that is not positive": (lambda x, y: F.softplus(y.chunk(2, -1)[0], -1.0) * y.chunk(2, -1)[1], []),
    "a constant": (lambda x, y: x * torch.ones(4), []),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_find_weights_of_products(name: str) -> None:
    function, expected = FUNCTIONS[name]
    program = program_after(before(find_weights), Product(function))
    assert find_weights(program) == len(expected)
    assert sorted(program.facts.weights.values()) == sorted(expected)


@pytest.mark.parametrize(("form", "count"), [("cumsum", 4), ("pairs", 3)])
def test_find_weights_of_a_selective_scan(form: str, count: int) -> None:
    """Every product of x with a parameter, and of two parameters if one is a time step; but not that with the gate."""
    program = program_after(before(find_weights), Mixer(form))
    assert find_weights(program) == count
    gated = [node for node in program.graph.nodes if node.name == "mul"]
    assert not set(gated) & set(program.facts.weights)


@pytest.mark.parametrize("signal", [True, -1, 1.0, "left"])
def test_signal_is_a_position(signal: Any) -> None:
    with pytest.raises(RuleError, match="signal must be the position of a factor or None"):
        Selective(signal=signal)

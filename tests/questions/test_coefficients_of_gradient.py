"""Coefficients under the preset `gradient` are the gradient, also through operations with several results."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from oracles import assert_relevance, random
from questions import language_model

IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 5, 0, 9, 10, 1]])


def gradients(model: nn.Module, x: Tensor, target: tuple[int, ...], names: list[str]) -> list[Tensor]:
    kept: dict[nn.Module, Tensor] = {}
    modules = [model.get_submodule(name) for name in names]
    hooks = [each.register_forward_hook(lambda module, args, out: kept.update({module: out})) for each in modules]
    output = model(x)[(slice(None), *target)].sum()
    for hook in hooks:
        hook.remove()
    return list(torch.autograd.grad(output, [kept[module] for module in modules]))


def test_of_a_language_model() -> None:
    model = language_model()
    names = ["embed", "blocks.0", "blocks.0.norm1", "blocks.0.out", "blocks.0.up", "blocks.1.down", "norm"]
    explain = fxlrp.compile(model, "gradient", example_inputs=IDS)
    found = explain(IDS, target=(-1, 3), at=names, coefficients=True)
    for name, expected in zip(names, gradients(model, IDS, (-1, 3), names), strict=True):
        assert_relevance(found[name], expected, 1e-10)


class Parts(nn.Module):
    """The parts of a value, one of them unused, and scaled differently."""

    def __init__(self, divide: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(2, 3)
        self.divide = divide

    def forward(self, x: Tensor) -> Tensor:
        first, _, third = self.divide(self.first(x))
        out: Tensor = self.last(torch.tanh(first) + 2 * third)
        return out


DIVISIONS = {
    "chunk": lambda x: x.chunk(3, -1),
    "split": lambda x: x.split(2, -1),
    "unbind": lambda x: x.unflatten(-1, (3, 2)).unbind(1),
    "tensor_split": lambda x: x.tensor_split(3, -1),
}


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("divide", DIVISIONS.values(), ids=DIVISIONS.keys())
def test_behind_parts(divide: Callable[[Tensor], tuple[Tensor, ...]], optimize: bool) -> None:
    torch.manual_seed(0)
    model, x = Parts(divide).double().eval(), random(5, 4)
    with torch.no_grad():
        # The parts that are read contain zeros.
        model.first.weight[[0, 4]], model.first.bias[[0, 4]] = 0.0, 0.0
    explain = fxlrp.compile(model, "gradient", optimize=optimize)
    found = explain(x, target=1, at=["first", "x"], coefficients=True)
    expected = gradients(model, x, (1,), ["first"])[0]
    assert_relevance(found["first"], expected, 1e-10)
    assert_relevance(found["x"], expected @ model.first.weight.detach(), 1e-10)
    assert expected[:, [0, 4]].abs().min() > 1e-3

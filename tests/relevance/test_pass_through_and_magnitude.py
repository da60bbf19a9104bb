"""PassThrough on linear maps of equal sizes, and Magnitude on sums and means over dimensions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp import rules
from fxlrp.errors import RuleError
from oracles import random

PASS = rules.PassThrough()

EQUAL: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(4, 4), (2, 4)),
    "linear on tokens": (nn.Linear(4, 4, bias=False), (2, 3, 4)),
    "conv2d": (nn.Conv2d(3, 3, 3, padding=1), (2, 3, 5, 4)),
    "conv2d same": (nn.Conv2d(3, 3, 4, padding="same"), (2, 3, 5, 4)),
    "conv_transpose1d": (nn.ConvTranspose1d(2, 2, 3, padding=1), (2, 2, 6)),
}


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
@pytest.mark.parametrize("name", EQUAL)
def test_it_is_the_seed(name: str, optimize: bool) -> None:
    layer, shape = EQUAL[name]
    x, seed = random(*shape), random(*shape, seed=3)
    explain = fxlrp.compile(
        layer.double().eval(),
        [
            ("*", PASS),
        ],
        optimize=optimize,
    )
    assert torch.equal(explain(x, seed=seed), seed)


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
def test_between_other_layers(optimize: bool) -> None:
    """The layer is skipped: the rest is gradient x input of the head, at the value that the head read."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)).double().eval()
    x = random(2, 4)
    explain = fxlrp.compile(model, fxlrp.presets.epsilon(0.0).override([("0", PASS)]), optimize=optimize)
    hidden = torch.relu(model[0](x)).detach()
    expected = hidden * model[2].weight[1].detach()  # type: ignore[index]
    torch.testing.assert_close(explain(x, target=1), expected)


@pytest.mark.parametrize("layer", [nn.Linear(4, 3), nn.Linear(4, 8)], ids=repr)
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
def test_other_sizes(layer: nn.Module, optimize: bool) -> None:
    explain = fxlrp.compile(layer.eval(), [("linear", PASS)], optimize=optimize)
    with pytest.raises(RuleError, match=r"PassThrough needs .* equal size.*\(2, 4\)"):
        explain(torch.rand(2, 4), target=0)


def test_a_grid_of_another_size() -> None:
    explain = fxlrp.compile(nn.Conv2d(3, 3, 3).eval(), [("conv2d", PASS)])
    with pytest.raises(RuleError, match=r"\(2, 3, 5, 5\) and an output of shape \(2, 3, 3, 3\)"):
        explain(torch.rand(2, 3, 5, 5), target=...)


def shares(x: Any, dim: Any, seed: Any) -> Any:
    """|x| over its sum along the dimensions, times the relevance of the sum."""
    total = x.abs().sum(dim, keepdim=True)
    return x.abs() / total * seed.reshape(total.shape)


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
@pytest.mark.parametrize("name", ["sum", "mean"])
@pytest.mark.parametrize(("dim", "keepdim"), [(1, False), (-1, True), ((1, 2), False), ((0, 2), True)])
def test_magnitude_of_a_reduction(name: str, dim: Any, keepdim: bool, optimize: bool) -> None:
    class Reduced(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return getattr(x, name)(dim, keepdim=keepdim)

    model, x = Reduced().eval(), random(2, 3, 4)
    x[0, 1, 1] = 0.0
    seed = random(*model(x).shape, seed=3)
    explain = fxlrp.compile(model, [(name, rules.Magnitude(stabilizer=0.0))], optimize=optimize)
    torch.testing.assert_close(explain(x, seed=seed), shares(x, dim, seed), rtol=1e-10, atol=1e-12)


def test_magnitude_of_the_whole() -> None:
    class Reduced(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum()

    x = random(2, 3)
    relevance = fxlrp.compile(Reduced().eval(), [("sum", rules.Magnitude(0.0))])(x)
    torch.testing.assert_close(relevance, x.abs() / x.abs().sum() * x.sum())


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
def test_magnitude_between_other_layers(optimize: bool) -> None:
    """Elements that cancel: the mean is close to zero, where epsilon would divide by it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.first(x).mean(1))

    torch.manual_seed(0)
    model, x = Net().double().eval(), random(2, 5, 4)
    preset = fxlrp.presets.epsilon(0.0).override([("mean", rules.Magnitude(0.0))])
    relevance = fxlrp.compile(model, preset, optimize=optimize)(x, target=1)
    hidden = model.first(x).detach()
    of_mean = hidden.mean(1) * model.last.weight[1].detach()
    of_hidden = hidden.abs() / hidden.abs().sum(1, keepdim=True) * of_mean.unsqueeze(1)
    expected = x * ((of_hidden / hidden) @ model.first.weight.detach())
    torch.testing.assert_close(relevance, expected, rtol=1e-9, atol=1e-11)

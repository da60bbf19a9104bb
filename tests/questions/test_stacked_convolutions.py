"""Several targets of convolutions, which are one larger batch, equal one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.targets import each
from oracles import assert_relevance, random, randomize

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 9)),
    "2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 8)),
    "3d": (nn.Conv3d(4, 6, (1, 2, 3), dilation=(1, 1, 2)), (3, 4, 3, 5, 6)),
    "groups": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (3, 4, 5, 6)),
    "each channel": (nn.Conv2d(4, 4, (3, 1), groups=4), (3, 4, 5, 6)),
    "same": (nn.Conv2d(4, 6, (2, 3), padding="same"), (3, 4, 5, 6)),
    "valid": (nn.Conv2d(4, 6, 2, padding="valid"), (3, 4, 5, 6)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (3, 4, 5, 6)),
}


CONVOLUTIONS: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


class Net(nn.Module):
    """A convolution behind one of single elements, and a head."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels = layer(torch.zeros(shape, dtype=torch.float64)).shape[1]
        self.first = randomize(CONVOLUTIONS[len(shape)](shape[1], shape[1], 1), 1)
        self.layer, self.head = randomize(layer, 2), randomize(nn.Linear(channels, 5), 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(self.first(x).relu()).relu().flatten(2).mean(2))
        return found


@pytest.mark.parametrize("rules", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("name", LAYERS)
def test_several_targets_are_those_one_at_a_time(name: str, rules: str) -> None:
    layer, shape = LAYERS[name]
    model, x = Net(layer.double(), shape).double().eval(), random(*shape)
    explain = fxlrp.compile(model, rules, example_inputs=x)
    together = explain(x, target=each([4, 0, 2]))
    for found, target in zip(together, (4, 0, 2), strict=True):
        assert_relevance(found, explain(x, target=target), 1e-12)


@pytest.mark.parametrize("places", ["layer", "first"])
def test_several_conditions(places: str) -> None:
    layer, shape = LAYERS["2d"]
    model, x = Net(layer.double(), shape).double().eval(), random(*shape)
    explain = fxlrp.compile(model, "epsilon_plus", example_inputs=x)
    conditions = [{places: [0]}, {places: [1, 3]}]
    together = explain(x, target=1, only=conditions)
    for found, condition in zip(together, conditions, strict=True):
        assert_relevance(found, explain(x, target=1, only=condition), 1e-12)


def test_channels_last() -> None:
    layer, shape = LAYERS["2d"]
    model = Net(layer.double(), shape).double().eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = random(*shape).contiguous(memory_format=torch.channels_last)
    explain = fxlrp.compile(model, "epsilon", example_inputs=x)
    for found, target in zip(explain(x, target=each([1, 3])), (1, 3), strict=True):
        assert_relevance(found, explain(x, target=target), 1e-12)


def test_within_vmap() -> None:
    layer, shape = LAYERS["2d"]
    model, x = Net(layer.double(), shape).double().eval(), random(2, *shape)
    explain = fxlrp.compile(model, "epsilon")
    found = torch.vmap(lambda each_x: explain(each_x, target=each([1, 3])))(x)
    for batch, relevance in zip(x, found, strict=True):
        assert_relevance(relevance, explain(batch, target=each([1, 3])), 1e-12)


def test_derivatives_use_operations_of_pytorch() -> None:
    """Where the explanation is differentiated, the steps have derivatives."""
    layer, shape = LAYERS["2d"]
    model, x = Net(layer.double(), shape).double().eval(), random(*shape)
    explain = fxlrp.compile(model, "epsilon", example_inputs=x, differentiable=True)
    leaf = x.clone().requires_grad_()
    together = explain(leaf, target=each([1, 3])).square().sum()
    alone = sum(explain(leaf, target=target).square().sum() for target in (1, 3))
    (found,), (expected,) = (torch.autograd.grad(total, leaf) for total in (together, alone))
    assert_relevance(found, expected, 1e-10)

"""Checkpointing: the same relevance from fewer activations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from benchmarks.memory import peak_bytes
from fxlrp.errors import InputError
from helpers import as_tuple, slow_ones
from oracles import assert_relevance


@pytest.mark.sampled(4, "name")
@pytest.mark.slow
@pytest.mark.parametrize("segments", [True, *slow_ones(1, 2), 5, *slow_ones(1000)])
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "plain"])
@pytest.mark.parametrize("name", zoo.SMALL_NETS)
def test_small_nets(name: str, optimize: bool, segments: int) -> None:
    """However the program is cut, through skips, pooling and modules called twice, the answer is the same."""
    model, inputs = zoo.small_net(name)
    expected = fxlrp.compile(model, "epsilon_plus_flat", example_inputs=inputs, optimize=False)(*inputs)
    explain = fxlrp.compile(model, "epsilon_plus_flat", example_inputs=inputs, optimize=optimize, checkpoint=segments)
    found = explain(*inputs)
    for a, b in zip(as_tuple(found), as_tuple(expected), strict=True):
        assert_relevance(a, b, 1e-10)


@pytest.mark.parametrize("name", ["resnet18", *slow_ones("densenet121", "googlenet", "efficientnet_b0")])
def test_torchvision(name: str) -> None:
    model, x = zoo.calibrated(name)
    for preset in ("epsilon", fxlrp.presets.epsilon_gamma_box(low=-3.0, high=3.0)):
        expected = fxlrp.compile(model, preset)(x)
        assert_relevance(fxlrp.compile(model, preset, checkpoint=True)(x), expected, 1e-10)


class Chain(nn.Module):
    """Convolutions and ReLUs whose activations are all of one size."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x.mean((2, 3))


def peak(depth: int, **options: Any) -> float:
    """The peak of memory, in activations."""
    x = torch.rand(2, 4, 64, 64)
    explain = fxlrp.compile(Chain(depth).eval(), "epsilon", **options)
    call: Callable[[], Any] = lambda: explain(x, target=0)  # noqa: E731
    call()
    return peak_bytes(call)[0] / (x.numel() * x.element_size())


@pytest.mark.slow
def test_memory_grows_with_the_square_root_of_the_depth() -> None:
    """Without checkpoints 64 layers keep 64 activations; with them some 8 segments' ends and one segment's inside."""
    assert 64 <= peak(64) <= 76
    assert peak(64, checkpoint=True) <= 24
    assert peak(256, checkpoint=True) <= 2.2 * peak(64, checkpoint=True)


def test_count_is_what_is_computed_again() -> None:
    """Of the chain's two segments, the first is computed again but for its last activation."""
    model = Chain(4).eval()
    again = [node.name for node in fxlrp.compile(model, "epsilon", checkpoint=2).graph_module.graph.nodes]
    again = [name for name in again if name.endswith("_again")]
    plain = [node.name for node in fxlrp.compile(model, "epsilon").graph_module.graph.nodes]
    assert not [name for name in plain if name.endswith("_again")]
    # Nine operations in two segments of five and four: conv, relu, conv, relu, conv | relu, conv, relu, mean.
    assert len(again) == 4


@pytest.mark.parametrize("segments", [0, -1, 1.5, "many"])
def test_numbers_of_segments_that_are_none(segments: Any) -> None:
    with pytest.raises(InputError, match="checkpoint must be"):
        fxlrp.compile(Chain(2).eval(), checkpoint=segments)

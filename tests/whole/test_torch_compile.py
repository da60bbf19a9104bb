"""Explainers under torch.compile: one graph, any batch size, the same numbers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import fxlrp
import zoo
from helpers import compiler_needed, repeated, slow_ones

PRESETS = {
    "epsilon": fxlrp.presets.epsilon(),
    "epsilon_plus_flat": fxlrp.presets.epsilon_plus_flat(),
    "epsilon_gamma_box": fxlrp.presets.epsilon_gamma_box(low=-3.0, high=3.0),
    "epsilon_alpha2_beta1_flat": fxlrp.presets.epsilon_alpha2_beta1_flat(),
}


pytestmark = pytest.mark.usefixtures("fresh_compiler")


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1))
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(392, 5)).eval()


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("preset", ["epsilon", *slow_ones(*(name for name in PRESETS if name != "epsilon"))])
def test_one_graph_serves_every_batch_size(preset: str) -> None:
    explain = fxlrp.compile(net(), PRESETS[preset])
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(explain, backend=counter, fullgraph=True, dynamic=True)
    for batch in (2, 3, 7):
        torch.testing.assert_close(compiled(images(batch)), explain(images(batch)))
    assert counter.frame_count == 1


models = pytest.mark.parametrize(
    "name",
    ["resnet18", *slow_ones("mobilenet_v3_small"), *repeated("vit_b_16", "resnet50", "densenet121", "convnext_tiny")],
)


def heatmap(explain: fxlrp.Explainer, image: Tensor, target: Tensor) -> Tensor:
    """What surrounds an explanation: preprocessing before it, a heatmap behind it."""
    relevance = explain((image - 0.5) / 0.25, target=target)
    heat = relevance.sum(1).clamp(min=0)
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-30)


@pytest.mark.slow
@models
def test_no_graph_breaks(name: str) -> None:
    model, x = zoo.calibrated(name)
    explain = fxlrp.compile(model, "epsilon_plus_flat")
    found = torch._dynamo.explain(lambda image, target: heatmap(explain, image, target))(x, torch.tensor([1, 2]))
    assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", *repeated("mobilenet_v3_small", "vit_b_16")])
def test_an_explainer_inside_a_compiled_function(name: str) -> None:
    model, x = zoo.calibrated(name)
    explain = fxlrp.compile(model, "epsilon_plus_flat")
    counter = CompileCounterWithBackend("eager")

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def compiled(image: Tensor, target: Tensor) -> Tensor:
        return heatmap(explain, image, target)

    for batch in (2, 3, 5):
        image, target = torch.cat([x, x, x])[:batch], torch.arange(batch)
        torch.testing.assert_close(compiled(image, target), heatmap(explain, image, target))
    assert counter.frame_count == 1


def test_compiled_explainers_follow_the_weights() -> None:
    """What an eager call keeps is not built into a compiled graph."""
    model, x = net(), images(2)
    explain = fxlrp.compile(model)
    compiled = torch.compile(explain, backend="aot_eager")
    before = compiled(x)
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(-1)
    torch.testing.assert_close(compiled(x), fxlrp.compile(model)(x))
    assert not torch.allclose(compiled(x), before)


@pytest.mark.sampled(4, "options")
@compiler_needed
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"layout_optimization": False}, {"freezing": True}], ids=["contiguous", "frozen"])
@pytest.mark.parametrize("preset", PRESETS)
def test_inductor(preset: str, options: dict[str, Any]) -> None:
    explain = fxlrp.compile(net(), PRESETS[preset])
    compiled = torch.compile(explain, fullgraph=True, options=options)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images(2)), explain(images(2)), rtol=1e-4, atol=1e-5)

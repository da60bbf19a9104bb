"""Files of exported explanations, and what they give here and in a process without fxlrp."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from helpers import compiler_needed

# What one runtime rounds otherwise than another, relative to the largest relevance.
BOUNDS = {"export": 1e-5, "aoti": 1e-5, "onnx": 1e-4}


def file_name(format: str) -> str:
    return "explain.onnx" if format == "onnx" else "explain.pt2"


def as_list(relevance: Tensor | tuple[Tensor, ...] | dict[str, Tensor]) -> list[Tensor]:
    """What an explainer or a file returns, in the order of the inputs."""
    if isinstance(relevance, Tensor):
        return [relevance]
    return list(relevance.values() if isinstance(relevance, dict) else relevance)


def error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest relevance."""
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert expected.abs().max() > 0
    return float((got - expected).abs().max() / expected.abs().max())


def run_here(format: str, path: Path, calls: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """What the file gives in this process, which is quicker."""
    run = loaded(format, path)
    return [as_list(run(*call)) for call in calls]


def loaded(format: str, path: Path) -> Callable[..., Any]:
    """The file as a function of tensors."""
    if format != "onnx":
        return torch._inductor.aoti_load_package(path) if format == "aoti" else torch.export.load(path).module()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(path, options)
    names = [each.name for each in session.get_inputs()]

    def run(*call: Tensor) -> tuple[Tensor, ...]:
        arrays = [x.numpy() for x in call]
        return tuple(map(torch.from_numpy, session.run(None, dict(zip(names, arrays, strict=True)))))

    return run


def assert_same(
    format: str,
    path: Path,
    calls: Sequence[Sequence[Tensor]],
    expected: Sequence[Any],
    run: Callable[..., list[list[Tensor]]] = run_here,
) -> None:
    for results, relevance in zip(run(format, path, calls), expected, strict=True):
        for got, wanted in zip(results, as_list(relevance), strict=True):
            assert error(got, wanted) < BOUNDS[format]


@functools.cache
def model_and_images(name: str) -> tuple[nn.Module, Tensor]:
    """A model in float64, and three images for it of which two are among those calibrated on."""
    if name == "vit_b_16":
        torch.manual_seed(0)
        model = zoo.torchvision.models.vit_b_16(weights=None, image_size=64).eval()
        nn.init.normal_(model.heads.head.weight, std=0.05)  # torchvision starts it at zero: so would be all relevance
        images = zoo.images(2, 64)
    else:
        model, images = zoo.calibrated(name, size=64)
    return model.double(), torch.cat([images, zoo.images(1, 64, seed=5)])


def formats(*, compiled_repeats: bool = False) -> list[Any]:
    """The formats of a test; a compiler takes half a minute for a package, which repeats what another test shows."""
    compiled = pytest.param("aoti", marks=[compiler_needed, *([pytest.mark.repeats] if compiled_repeats else [])])
    return ["export", "onnx", compiled]


def convolutional() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)).eval()
    return model, torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([4, 0, 2])

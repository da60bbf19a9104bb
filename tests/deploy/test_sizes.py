"""Open and fixed sizes of exported explanations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import fxlrp
from deployed import TARGETS, assert_same, convolutional, file_name, loaded
from fxlrp.errors import ExportError
from helpers import compiler_needed


def globally_pooled() -> tuple[nn.Module, Tensor]:
    """A network that averages over images whose size is a quotient: PyTorch cannot prove much about it."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    return nn.Sequential(*layers).eval(), torch.randn(3, 3, 16, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "capture", "made"),
    [
        ("export", "symbolic", convolutional),
        ("export", "export", convolutional),
        ("onnx", "symbolic", convolutional),
        ("onnx", "symbolic", globally_pooled),
        pytest.param("onnx", "export", convolutional, marks=pytest.mark.repeats),
        pytest.param("aoti", "symbolic", globally_pooled, marks=compiler_needed),
    ],
)
def test_open_image_sizes(format: Any, capture: Any, made: Any, tmp_path: Path) -> None:
    model, x = made()
    captured = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO} if capture == "export" else None
    options: Any = dict(example_inputs=x, dynamic_shapes={"input": captured}) if captured else {}
    explain = fxlrp.compile(model, capture=capture, **options)
    path = tmp_path / file_name(format)
    sizes = {2: Dim("height", min=8, max=64), 3: Dim("width", min=8, max=64)}
    explain.export(path, x, format=format, dynamic_shapes={"input": sizes})
    assert fxlrp.deploy.metadata(path)["inputs"][0]["shape"] == ["batch", 3, "input_2", "input_3"]
    calls = [(x[:2, :, :13, :10].contiguous(), TARGETS[:2]), (F.pad(x, (3, 2, 4, 1)), TARGETS)]
    assert_same(format, path, calls, [explain(*call[:1], target=call[1]) for call in calls])


def test_a_batch_that_is_fixed(tmp_path: Path) -> None:
    model, x = convolutional()
    explain = fxlrp.compile(model)
    for index, fixed in enumerate(({0: Dim.STATIC}, (None,) * 4, None)):
        path = tmp_path / f"{index}.pt2"
        explain.export(path, x, dynamic_shapes={"input": fixed})
        assert fxlrp.deploy.metadata(path)["inputs"][0]["shape"] == [3, 3, 16, 16]
        run = loaded("export", path)
        torch.testing.assert_close(run(x, TARGETS), explain(x, target=TARGETS))
        with pytest.raises(AssertionError, match="Guard failed"):
            run(x[:2], TARGETS[:2])


def test_sizes_that_cannot_be_open(tmp_path: Path) -> None:
    model, x = convolutional()
    path = tmp_path / "explain.pt2"
    with pytest.raises(ExportError, match="dynamic_shapes names an unknown input 'x'; the inputs are: input"):
        fxlrp.compile(model).export(path, x, dynamic_shapes={"x": {2: Dim("height")}})
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).eval()
    with pytest.raises(ExportError, match=r"height.*make it static: dynamic_shapes="):
        fxlrp.compile(flat).export(path, x, dynamic_shapes={"input": {2: Dim("height")}})
    # What capture took for fixed stays fixed, though the operations would take any size.
    captured = fxlrp.compile(model, capture="export", example_inputs=x)
    with pytest.raises(ExportError, match=r"height.*make it static: dynamic_shapes="):
        captured.export(path, x, dynamic_shapes={"input": {2: Dim("height", max=64)}})
    assert not path.exists()


@compiler_needed
@pytest.mark.parametrize(
    ("options", "converts"),
    [
        ({}, False),
        ({"target": fxlrp.targets.each(["input"] * 2)}, False),
        ({"dynamic_shapes": {"input": {2: Dim("height", min=8, max=512)}}}, True),
    ],
    ids=["batch", "several targets", "image sizes"],
)
def test_packages_convert_layouts_only_where_image_sizes_are_open(
    options: dict[str, Any], converts: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[dict[str, Any]] = []

    def compiled(program: Any, *, package_path: str, inductor_configs: dict[str, Any]) -> None:
        given.append(inductor_configs)

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", compiled)
    model, x = globally_pooled()
    fxlrp.compile(model).export(tmp_path / "x.pt2", x, format="aoti", **options)
    assert [each["layout_optimization"] for each in given] == [converts]

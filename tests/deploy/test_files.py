"""What is in an exported file, and what cannot be exported."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from deployed import assert_same, convolutional, formats, model_and_images
from fxlrp import deploy
from fxlrp.errors import ExportError, InputError
from helpers import repeated


def exported(explain: fxlrp.Explainer, x: Tensor, path: Path) -> torch.export.ExportedProgram:
    explain.export(path, x)
    return torch.export.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", *repeated("mobilenet_v3_small")])
def test_programs_are_plain_aten(name: str, tmp_path: Path) -> None:
    model, images = model_and_images(name)
    explain = fxlrp.compile(model)
    program = exported(explain, images[:1], tmp_path / "explain.pt2")
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    assert len(calls) > 100
    for node in calls:
        is_aten = isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten"
        assert is_aten or getattr(node.target, "__module__", "") == "_operator", node.target
    assert not [node for node in calls if "assert" in str(node.target) or node.target is torch.ops.aten.to.dtype]
    assert not any(node.op == "get_attr" for node in program.graph.nodes)
    assert not any(node.stack_trace for node in program.graph.nodes)  # paths of the machine that it was written on
    read = {node.target for node in explain.graph_module.graph.nodes if node.op == "get_attr"}
    assert set(program.state_dict) == read


def test_weights_are_shared_and_unchanged() -> None:
    model, x = convolutional()
    explain = fxlrp.compile(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = explain._explanation.require("the explanation")
    explanation = deploy.Exportable(explain.graph_module, made.interface, made.signature.with_examples([x]), {})
    program = deploy.program.export(explanation, target="input", dynamic_shapes=None).exported
    state = model.state_dict()
    for path, value in program.state_dict.items():
        assert value.data_ptr() == state[path.removeprefix("model.")].data_ptr()
        assert not value.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(500, 500)
    tied = nn.Linear(500, 500)
    tied.weight = layer.weight
    model = nn.Sequential(layer, nn.ReLU(), tied).eval()
    x, path = torch.randn(3, 500), tmp_path / "explain.pt2"
    fxlrp.compile(model).export(path, x)
    assert path.stat().st_size < 1.5 * layer.weight.numel() * 4
    targets = torch.tensor([1, 2, 3])
    assert_same("export", path, [(x, targets)], [fxlrp.compile(model)(x, target=targets)])


@pytest.mark.slow
@pytest.mark.parametrize("format", formats(compiled_repeats=True))
def test_metadata(format: str, file_of: Callable[[str], Path]) -> None:
    explain = fxlrp.compile(convolutional()[0], [("conv2d", fxlrp.rules.Gamma(0.25))])
    path = file_of(format)
    # Whoever has no fxlrp reads it like this.
    if format == "export":
        extra = {"fxlrp.json": ""}
        torch.export.load(path, extra_files=extra)
        found = json.loads(extra["fxlrp.json"])
    elif format == "aoti":
        found = json.loads(torch._inductor.aoti_load_package(path).get_metadata()["fxlrp"])
    else:
        import onnx

        found = json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["fxlrp"])
    assert found == fxlrp.deploy.metadata(path)
    rules = found.pop("rules")
    assert found == {
        "format_version": 1,
        "fxlrp": fxlrp.__version__,
        "torch": torch.__version__,
        "model": "Sequential",
        "target": "target",
        "inputs": [
            {"name": "input", "dtype": "float32", "shape": ["batch", 3, 16, 16]},
            {
                "name": "target",
                "dtype": "int64",
                "shape": ["batch"],
                "meaning": "the index of the explained output, for each sample",
            },
        ],
        "conditions": {},
        "outputs": ["relevance"],
    }
    convolutions = [rule for rule in rules.values() if rule["operation"] == "conv2d"]
    assert len(convolutions) == 2
    assert all("Gamma" in rule["rule"] and rule["origin"] == "user pair 0" for rule in convolutions)
    assert len(rules) == sum(node.meta.get("fxlrp") is not None for node in explain.nodes)


def test_metadata_of_other_files(tmp_path: Path) -> None:
    import onnx

    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "other.pt2")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), tmp_path / "other.onnx")
    (tmp_path / "other.txt").write_text("nothing")
    for name in ("other.pt2", "other.onnx", "other.txt"):
        with pytest.raises(ExportError, match="not an explanation"):
            fxlrp.deploy.metadata(tmp_path / name)


def test_errors(tmp_path: Path) -> None:
    model, x = convolutional()
    explain = fxlrp.compile(model)
    wrong: Any
    with pytest.raises(ExportError, match="unknown format 'tflite'; choose one of: export, aoti, onnx"):
        explain.export(tmp_path / "explain.pt2", x, format="tflite")  # type: ignore[arg-type]
    for format, name in (("export", "explain.onnx"), ("aoti", "explain.so"), ("onnx", "explain.pt2")):
        with pytest.raises(ExportError, match=rf"{format!r} must end in \.(pt2|onnx), but got '.*{name}'"):
            explain.export(tmp_path / name, x, format=format)  # type: ignore[arg-type]
    for wrong in ("smallest", True, 1.5, torch.tensor(1)):
        with pytest.raises(ExportError, match="target must be"):
            explain.export(tmp_path / "explain.pt2", x, target=wrong)
    for wrong in (5, -6):
        with pytest.raises(InputError, match="out of range"):
            explain.export(tmp_path / "explain.pt2", x, target=wrong)
    for wrong, message in (((x, x), "expected 1"), ({"y": x}, "unknown input 'y'"), ((), "got 0"), ([1.0], "a tensor")):
        with pytest.raises(InputError, match=message):
            explain.export(tmp_path / "explain.pt2", wrong)
    assert list(tmp_path.iterdir()) == []


def test_onnx_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = convolutional()
    explain = fxlrp.compile(model)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript .* pip install 'fxlrp\[onnx\]'"):
        explain.export(tmp_path / "explain.onnx", x, format="onnx")


def test_operators_that_onnx_lacks_are_named(tmp_path: Path) -> None:
    class Special(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(torch.special.i0e(x))

    x = torch.rand(2, 4) + 1
    explain = fxlrp.compile(Special().eval())
    with pytest.raises(ExportError, match=r"i0e.*format='export' or 'aoti'"):
        explain.export(tmp_path / "explain.onnx", x, format="onnx")


def test_a_missing_compiler_is_named(tmp_path: Path) -> None:
    from torch._inductor import config

    model, x = convolutional()
    # pytest's monkeypatch would delete a setting of the module when it undoes its change.
    missing = config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with missing, pytest.raises(ExportError, match="C\\+\\+ compiler: install"):
        fxlrp.compile(model).export(tmp_path / "explain.pt2", x, format="aoti")

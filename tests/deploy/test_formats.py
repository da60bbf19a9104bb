"""Targets, several inputs and outputs, tokens and ways to compile, in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import fxlrp
from deployed import TARGETS, assert_same, convolutional, error, file_name, formats, loaded
from fxlrp.errors import ExportError, InputError


@pytest.mark.slow
@pytest.mark.parametrize("format", formats())
def test_target_is_an_input(format: str, file_of: Callable[[str], Path]) -> None:
    model, x = convolutional()
    explain = fxlrp.compile(model, [("conv2d", fxlrp.rules.Gamma(0.25))])
    calls = [(x, TARGETS), (x[2:], TARGETS[1:2])]
    assert_same(format, file_of(format), calls, [explain(*call[:1], target=call[1]) for call in calls])
    # The target matters.
    assert error(explain(x, target=TARGETS), explain(x, target=0)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "target"),
    [
        ("export", "largest"),
        ("export", None),
        ("export", 3),
        ("export", (3,)),
        *(pytest.param("onnx", target, marks=pytest.mark.slow) for target in ("largest", 3)),
    ],
)
def test_target_is_built_in(format: Any, target: Any, tmp_path: Path) -> None:
    model, x = convolutional()
    explain = fxlrp.compile(model)
    path = tmp_path / file_name(format)
    explain.export(path, x[:1], format=format, target=target)
    expected = None if target == "largest" else target
    calls = [(x,), (x[1:2],)]
    assert_same(format, path, calls, [explain(*call, target=expected) for call in calls])
    assert fxlrp.deploy.metadata(path)["target"] == ("largest" if expected is None else [3])


class Pairs(nn.Module):
    """Two inputs, of which the second has names of its own for everything, and no batch in the third."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor, target: Tensor, scale: Tensor) -> Tensor:
        return F.leaky_relu(self.first(x)) * scale + self.second(target)


@pytest.mark.parametrize("format", formats(compiled_repeats=True))
def test_several_inputs_and_outputs(format: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    explain = fxlrp.compile(Pairs().eval())
    x, other, scale = torch.randn(3, 6), torch.randn(3, 3), torch.rand(4) + 0.5
    path, targets = tmp_path / file_name(format), torch.tensor([1, 3, 0])
    explain.export(path, {"scale": scale, "x": x, "target": other}, format=format)
    calls = [(x, other, scale, targets), (x[:1], other[:1], 2 * scale, targets[:1])]
    expected = [explain(*call[:3], target=call[3]) for call in calls]
    assert len(expected[0]) == 3
    assert_same(format, path, calls, expected)
    found = fxlrp.deploy.metadata(path)
    assert [each["name"] for each in found["inputs"]] == ["x", "target", "scale", "explanation_target"]
    assert [each["shape"] for each in found["inputs"]] == [["batch", 6], ["batch", 3], [4], ["batch"]]
    assert found["outputs"] == ["relevance_x", "relevance_target", "relevance_scale"]
    assert found["target"] == "explanation_target"


class Text(nn.Module):
    """Tokens and a mask, a branch on a size so that symbolic tracing cannot follow, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.qkv, self.head = nn.Embedding(20, 8), nn.Linear(8, 24), nn.Linear(8, 20)

    def forward(self, tokens: Tensor, mask: Tensor, per_position: bool = False) -> Tensor:
        if tokens.shape[1] > 64:
            raise ValueError("too long")
        q, k, v = self.qkv(self.embedding(tokens)).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, :])
        return self.head(y if per_position else y.mean(1))


def text() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1, 4:] = False
    return Text().eval(), torch.randint(0, 20, (3, 7)), mask


@pytest.mark.slow
@pytest.mark.parametrize("format", formats(compiled_repeats=True))
def test_tokens_by_name(format: Any, tmp_path: Path) -> None:
    model, tokens, mask = text()
    examples = {"tokens": tokens[:1], "mask": mask[:1], "per_position": False}
    explain = fxlrp.compile(model, example_inputs=examples)
    assert explain.front_end == "export"
    path = tmp_path / file_name(format)
    length = Dim("length", min=2, max=64)
    explain.export(path, examples, format=format, dynamic_shapes={"tokens": {1: length}, "mask": {1: length}})
    targets = torch.tensor([1, 19, 0])
    calls = [(tokens, mask, targets), (tokens[1:2, :5], mask[1:2, :5], targets[:1])]
    assert_same(format, path, calls, [explain(tokens=t, mask=m, target=i) for t, m, i in calls])
    shapes = [each["shape"] for each in fxlrp.deploy.metadata(path)["inputs"]]
    assert shapes == [["batch", "tokens_1"], ["batch", "tokens_1"], ["batch"]]


def test_target_of_several_indices(tmp_path: Path) -> None:
    model, tokens, mask = text()
    examples = {"tokens": tokens, "mask": mask, "per_position": True}
    explain = fxlrp.compile(model, example_inputs=examples)
    path = tmp_path / "explain.pt2"
    explain.export(path, examples, target=(6, 11))
    calls = [(tokens, mask), (tokens[:1], mask[:1])]
    assert_same("export", path, calls, [explain(tokens=t, mask=m, target=(6, 11)) for t, m in calls])
    with pytest.raises(InputError, match="out of range"):
        explain.export(path, examples, target=(7, 0))
    with pytest.raises(InputError, match="compiled for per_position=True, not False"):
        explain.export(path, examples | {"per_position": False})


def test_one_number_for_each_sample_has_no_target(tmp_path: Path) -> None:
    torch.manual_seed(0)
    explain = fxlrp.compile(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)).eval())
    x, path = torch.randn(3, 4), tmp_path / "explain.pt2"
    with pytest.raises(ExportError, match="target='largest'"):
        explain.export(path, x)
    explain.export(path, x, target="largest")
    assert_same("export", path, [(x,), (x[:1],)], [explain(x), explain(x[:1])])


@pytest.mark.parametrize("format", formats())
def test_targets_out_of_range_are_refused(format: str, file_of: Callable[[str], Path]) -> None:
    _, x = convolutional()
    run = loaded(format, file_of(format))
    run(x, torch.tensor([4, 0, 2]))
    for wrong in (5, -1, -5, 1000):
        with pytest.raises(Exception, match=r"(?i)out of (bounds|range)"):
            run(x, torch.tensor([0, wrong, 0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"optimize": False}, {"checkpoint": True}, {"at": "4"}, {"capture": "export"}, {"rules": "epsilon_plus_flat"}],
    ids=str,
)
def test_compiled_otherwise(options: dict[str, Any], tmp_path: Path) -> None:
    model, x = convolutional()
    explain = fxlrp.compile(model, example_inputs=x, **options)
    path = tmp_path / "explain.pt2"
    explain.export(path, x[:1])
    calls = [(x, TARGETS), (x[:1], TARGETS[:1])]
    assert_same("export", path, calls, [explain(*call[:1], target=call[1]) for call in calls])


def test_an_explainer_that_waits_for_examples(tmp_path: Path) -> None:
    model, tokens, mask = text()
    explain = fxlrp.compile(model)
    assert "first call" in repr(explain)
    path = tmp_path / "explain.pt2"
    explain.export(path, (tokens[:1], mask[:1]))
    targets = torch.tensor([1, 2, 3])
    calls = [(tokens, mask, targets), (tokens[:1], mask[:1], targets[:1])]
    assert_same("export", path, calls, [explain(t, m, target=i) for t, m, i in calls])

"""Targets and conditions that are inputs of a file, alone and several at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from deployed import error, file_name, loaded
from fxlrp.errors import ExportError
from fxlrp.targets import each
from helpers import compiler_needed
from oracles import random
from questions import language_model, skips

IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 5, 0, 9, 10, 1], [3, 3, 8, 2, 6, 4]])
X = random(3, 2, 6, 6, seed=5).float()
FORMATS = ["export", pytest.param("onnx", marks=pytest.mark.slow)]


def masks(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.5


def channels(mask: Tensor) -> list[int]:
    found: list[int] = mask.nonzero()[:, 0].tolist()
    return found


def small() -> fxlrp.Explainer:
    return fxlrp.compile(skips().float(), "epsilon_plus")


@pytest.mark.parametrize("format", FORMATS)
def test_several_targets(format: Any, tmp_path: Path) -> None:
    explain, path = small(), tmp_path / file_name(format)
    explain.export(path, X[:1], format=format, target=each(["input"] * 3))
    targets = torch.tensor([[0, 1, 2], [2, 2, 1], [1, 0, 0]])
    (found,) = _results(loaded(format, path)(X, targets))
    for question in range(3):
        assert error(found[question], explain(X, target=targets[question])) < 1e-5
    inputs = fxlrp.deploy.metadata(path)["inputs"]
    assert inputs[1]["shape"] == [3, "batch"] and inputs[1]["meaning"].endswith("for each question and sample")


@pytest.mark.parametrize("format", FORMATS)
def test_a_condition(format: Any, tmp_path: Path) -> None:
    explain, path, mask = small(), tmp_path / file_name(format), masks(3, 4)
    explain.export(path, X[:1], format=format, only={"stem": "input"}, outputs=("relevance", "output"))
    targets = torch.tensor([1, 2, 0])
    found, _ = _results(loaded(format, path)(X, targets, mask))
    for sample in range(3):
        one = X[sample : sample + 1]
        expected = explain(one, target=int(targets[sample]), only={"stem": channels(mask[sample])})
        assert error(found[sample : sample + 1], expected) < 1e-5
    described = fxlrp.deploy.metadata(path)
    assert described["conditions"] == {"stem": "only_stem"}
    assert described["inputs"][2] == {
        "name": "only_stem",
        "dtype": "bool",
        "shape": ["batch", 4],
        "meaning": "whether relevance passes through each channel of stem, for each sample",
    }


@pytest.mark.parametrize("format", FORMATS)
def test_several_of_both(format: Any, tmp_path: Path) -> None:
    explain, path, mask = small(), tmp_path / file_name(format), masks(2, 3, 4)
    only: Any = [{"stem": "input", "last": 1}, {"stem": "input", "last": [0, 2]}]
    explain.export(path, X, format=format, target=each(["input"] * 2), only=only)
    targets = torch.tensor([[0, 1, 2], [2, 2, 1]])
    (found,) = _results(loaded(format, path)(X, targets, mask))
    for question, fixed in enumerate(([1], [0, 2])):
        for sample in range(3):
            one, kept = X[sample : sample + 1], {"stem": channels(mask[question, sample]), "last": fixed}
            expected = explain(one, target=int(targets[question, sample]), only=kept)
            assert (found[question, sample] - expected[0]).abs().max() < 1e-6
    assert fxlrp.deploy.metadata(path)["conditions"]["stem"] == "only_stem"


@pytest.mark.repeats
@compiler_needed
def test_a_compiled_package(tmp_path: Path) -> None:
    explain, path, mask = small(), tmp_path / "explain.pt2", masks(2, 4)
    explain.export(path, X, format="aoti", target=1, only=[{"stem": "input"}, {"stem": "input"}])
    mask = mask[:, None].expand(2, 3, 4).contiguous()
    (found,) = _results(loaded("aoti", path)(X, mask))
    for question in range(2):
        expected = explain(X, target=1, only={"stem": channels(mask[question, 0])})
        assert error(found[question], expected) < 1e-5


@pytest.mark.parametrize("format", FORMATS)
def test_the_target_of_a_language_model(format: Any, tmp_path: Path) -> None:
    explain = fxlrp.compile(language_model().float(), "attnlrp", example_inputs=IDS)
    path, targets = tmp_path / file_name(format), torch.tensor([[0, 1], [2, 3], [5, 9]])
    explain.export(path, IDS[:2], format=format)
    run = loaded(format, path)
    (found,) = _results(run(IDS, targets))
    assert error(found, explain(IDS, target=(targets[:, 0], targets[:, 1]))) < 1e-5
    shape = fxlrp.deploy.metadata(path)["inputs"][1]["shape"]
    assert shape == ["batch", 2]
    for wrong in ((6, 0), (-1, 0), (0, -1), (0, 1000)):
        with pytest.raises(Exception, match=r"(?i)out of (bounds|range)"):
            run(IDS, torch.tensor([[0, 1], wrong, [1, 1]]))


def test_what_cannot_be_an_input(tmp_path: Path) -> None:
    explain, path = small(), tmp_path / "explain.pt2"
    with pytest.raises(ExportError, match="either all are 'input' or none is"):
        explain.export(path, X, target=each(["input", 1]))
    with pytest.raises(ExportError, match="either all are 'input' or none is"):
        explain.export(path, X, target=1, only=[{"stem": "input"}, {"stem": 1}])
    layers = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ExportError, match=r"only=\{'0': 'input'\}: .* build in a boolean mask"):
        fxlrp.compile(layers.eval()).export(path, torch.ones(2, 6), only={"0": "input"})
    assert not path.exists()


def _results(returned: Any) -> tuple[Tensor, ...]:
    return returned if isinstance(returned, tuple) else (returned,)

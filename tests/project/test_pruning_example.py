"""The example that prunes the network of the demo."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from fxlrp.demo.digits import DigitNet, load_digits, train
from helpers import ROOT


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("example_pruning", ROOT / "examples" / "pruning.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_it_prunes_and_saves_a_plot(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = load_digits()
    model = train(digits, epochs=3, progress=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(example, "trained", lambda _: (model, None))
    monkeypatch.chdir(tmp_path)
    example.main()
    assert capsys.readouterr().out.count("by relevance") == 2
    assert (tmp_path / "pruning.png").stat().st_size > 10_000
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_removed(example: Any) -> None:
    model = DigitNet().eval()
    scores = {"layer1.conv1.weight": torch.arange(16.0)}
    with torch.no_grad():
        pruned = example.without_filters(model, scores, 0.5)
    kept = pruned.layer1.conv1.weight.flatten(1).abs().sum(1) > 0
    assert kept.tolist() == [False] * 8 + [True] * 8
    assert (pruned.layer1.bn1.weight == 0).tolist() == [True] * 8 + [False] * 8

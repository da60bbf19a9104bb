"""The example that compares relevance patching and attribution patching with activation patching."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxlrp
from helpers import ROOT


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("example_patching", ROOT / "examples" / "patching.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(example: Any) -> Any:
    torch.manual_seed(0)
    model = example.LanguageModel(width=8, heads=2, layers=2).double()
    example.train(model, steps=2)
    return model


@pytest.mark.parametrize("corruption", ["values", "key"])
def test_prompts(example: Any, corruption: str) -> None:
    torch.manual_seed(0)
    made = example.prompts(20, corruption)
    for ids, answers in ((made.clean, made.answer), (made.corrupted, made.corrupted_answer)):
        keys, values = ids[:, 0:-1:2], ids[:, 1:-1:2]
        assert torch.equal(values[keys == ids[:, -1:]], answers)
    assert (made.answer != made.corrupted_answer).all()
    differ = (made.clean != made.corrupted).sum(1)
    assert (differ == {"values": 2, "key": 1}[corruption]).all()


def patched_residual(model: Any, clean: Tensor, corrupted: Tensor, position: int) -> Tensor:
    """The logits of the corrupted run with the output of the last block of the clean run at a position."""
    streams = [model.blocks(model.tokens(ids) + model.positions[: ids.shape[1]]) for ids in (clean, corrupted)]
    streams[1][:, position] = streams[0][:, position]
    logits: Tensor = model.head(model.norm(streams[1]))
    return logits


def test_activation_patching(example: Any, model: Any) -> None:
    made = example.prompts(4, "values")
    name = "blocks.1"
    found = example.activation_patching(model, made, [name])[name]
    corrupted = made.difference(model(made.corrupted))
    for position in range(13):
        expected = made.difference(patched_residual(model, made.clean, made.corrupted, position)) - corrupted
        torch.testing.assert_close(found[:, position], expected)
    torch.testing.assert_close(found[:, -1], made.difference(model(made.clean)) - corrupted)
    assert (found[:, :-1] == 0).all()


def test_the_last_mlp_by_hand(example: Any, model: Any) -> None:
    """Behind the last MLP is a norm, whose deviation is a constant for RelP and not for the gradient."""
    made, name = example.prompts(4, "values"), "blocks.1.mlp"
    stream = model.blocks(model.tokens(made.corrupted) + model.positions[:13])[:, -1].requires_grad_()
    direction = model.head.weight[made.answer] - model.head.weight[made.corrupted_answer]
    deviation = (stream.var(-1, keepdim=True, unbiased=False) + model.norm.eps).sqrt()
    (gradient,) = torch.autograd.grad((model.norm(stream) * direction).sum(), stream)
    scaled = direction * model.norm.weight
    coefficient = (scaled - scaled.mean(-1, keepdim=True)) / deviation.detach()
    _, clean = example.record(model, made.clean, [name])
    _, corrupted = example.record(model, made.corrupted, [name])
    change = (clean[name] - corrupted[name])[:, -1]
    explain = fxlrp.compile(model, "relp", example_inputs=made.clean)
    by_relevance = example.relevance_patching(model, made, [name], explain)[name]
    by_gradient = example.attribution_patching(model, made, [name])[name]
    for found, factor in ((by_relevance, coefficient), (by_gradient, gradient)):
        torch.testing.assert_close(found[:, -1], (change * factor).sum(-1))
        assert (found[:, :-1] == 0).all()


def test_it_reports_and_saves_a_plot(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def few_steps(model: Any, train: Any = example.train) -> float:
        return float(train(model, steps=2))

    monkeypatch.setattr(example, "train", few_steps)
    monkeypatch.chdir(tmp_path)
    example.main()
    printed = capsys.readouterr().out
    assert printed.count("attention") == printed.count("MLP") == printed.count("residual") == 2
    assert (tmp_path / "patching.png").stat().st_size > 10_000

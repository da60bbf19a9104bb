"""Reading values with their relevance, in one run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxlrp
import zoo
from fxlrp.errors import InputError
from oracles import random
from questions import language_model, skips

X = random(2, 2, 6, 6)


def values_by_hooks(model: torch.nn.Module, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: found.__setitem__(name, out.detach().clone())
        )
        for name in names
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("options", [{}, {"checkpoint": True}, {"optimize": fxlrp.Optimizations.none()}])
def test_values_are_those_of_hooks(options: dict[str, Any]) -> None:
    names = ["stem", "block.0", "block", "last", "head"]
    for model, x, read in [
        (skips(), X, names),
        (*zoo.calibrated("resnet18"), ["layer1.0", "layer2.1", "avgpool", "fc"]),
    ]:
        expected = values_by_hooks(model, read, x)
        explain = fxlrp.compile(model, "epsilon_plus", **options)
        reading = explain.read(x, at=read, target=1)
        assert list(reading.places) == read
        for name in read:
            torch.testing.assert_close(reading[name].value, expected[name], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(reading[name].relevance, explain(x, target=1, at=name), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(reading.output, model(x).detach())


def test_values_of_selected_positions() -> None:
    """The head runs at the position of the target only, unless its value is read."""
    model, ids = language_model(), torch.tensor([[1, 4, 2, 7, 3]])
    explain = fxlrp.compile(model, "attnlrp", example_inputs=ids)
    names = ["blocks.1", "norm", "head"]
    expected = values_by_hooks(model, names, ids)
    reading = explain.read(ids, at=names, target=(-1, 3))
    for name in names:
        torch.testing.assert_close(reading[name].value, expected[name])
    assert reading["norm"].channel_dim == -1


def test_one_question_is_read() -> None:
    explain = fxlrp.compile(skips())
    with pytest.raises(InputError, match="give one target"):
        explain.read(X, at="stem", target=fxlrp.targets.each([0, 1]))
    with pytest.raises(InputError, match="give one target"):
        explain.read(X, at="stem", only=[{"stem": 1}])

"""Parameters as places."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError, UnsupportedOpError
from fxlrp.targets import each
from helpers import LRP0
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(3, 2, 6, 6)
IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 5, 0, 9, 10, 1]])


def test_of_lrp_0_they_are_parameter_times_gradient() -> None:
    model = skips()
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad(model(X)[:, 1].sum(), list(model.parameters()))
    found = fxlrp.compile(model, LRP0)(X, target=1, at=names)
    assert list(found) == names
    for name, gradient in zip(names, gradients, strict=True):
        assert_relevance(found[name], (model.get_parameter(name) * gradient).detach(), 1e-10)


def test_weight_and_bias_have_what_the_layer_received() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    found = explain(X, target=1, at=["last.weight", "last.bias", "last", "head.weight", "head.bias", "head"])
    for layer in ("last", "head"):
        parts = found[f"{layer}.weight"].sum() + found[f"{layer}.bias"].sum()
        torch.testing.assert_close(parts, found[layer].sum(), rtol=1e-4, atol=1e-8)


def test_with_other_places_patterns_and_one_by_one() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    found = explain(X, target=1, at=["x", "stem", "*.weight"])
    assert list(found)[:2] == ["x", "stem"] and "block.2.weight" in found
    for name, relevance in found.items():
        assert_relevance(relevance, explain(X, target=1, at=name), 1e-10)
    assert explain(X, target=1, at="stem.0.weight").shape == (4, 2, 3, 3)


def test_several_targets_and_conditions() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    found = explain(X, target=each([0, 2]), at="block.0.weight")
    for target, relevance in zip((0, 2), found, strict=True):
        assert_relevance(relevance, explain(X, target=target, at="block.0.weight"), 1e-10)
    # A weight below a condition receives what the channels pass on, one above it everything.
    names = ["head.weight", "block.0.weight"]
    whole = explain(X, target=1, at=names)
    maps = [explain(X, target=1, at=names, only={"block.1": channel}) for channel in range(5)]
    assert_relevance(sum(each["block.0.weight"] for each in maps), whole["block.0.weight"], 1e-10)
    for each_map in maps:
        assert_relevance(each_map["head.weight"], whole["head.weight"], 1e-10)


def test_an_embedding_has_the_relevance_of_its_rows() -> None:
    model = language_model()
    explain = fxlrp.compile(model, "attnlrp", example_inputs=IDS)
    found = explain(IDS, target=(-1, 3), at=["embed.weight", "embed"])
    rows = torch.zeros_like(found["embed.weight"]).index_add(0, IDS.flatten(), found["embed"].flatten(0, 1))
    assert_relevance(found["embed.weight"], rows, 1e-10)


def test_files_contain_them(tmp_path: Path) -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus", at="last.weight")
    explain.export(tmp_path / "explain.pt2", X, target=1)
    assert_relevance(torch.export.load(tmp_path / "explain.pt2").module()(X), explain(X, target=1), 1e-10)


def test_what_is_no_place() -> None:
    explain = fxlrp.compile(skips(), "epsilon")
    with pytest.raises(InputError, match="parameters have relevance, but no coefficients"):
        explain(X, target=1, at="head.weight", coefficients=True)
    with pytest.raises(InputError, match="no relevance reaches"):
        fxlrp.compile(skips(), fxlrp.presets.epsilon().override([("head", fxlrp.rules.Epsilon(bias=False))]))(
            X, target=1, at="head.bias"
        )


def test_debug_and_balance_of_parameters() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    relevances = explain.debug(X, target=1, at=["stem.0.weight", "x"])
    found = explain(X, target=1, at=["stem.0.weight", "x"])
    expected = float(found["stem.0.weight"].sum() + found["x"].sum())
    assert relevances.at_inputs == pytest.approx(expected, rel=1e-9)


class Positions(nn.Module):
    """A parameter of the model itself, whose node has its name."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.position = nn.Linear(4, 3), nn.Parameter(random(4, seed=5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.position)
        return out


@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_a_parameter_of_the_model_itself(capture: Literal["symbolic", "export"]) -> None:
    model, x = Positions().double().eval(), random(2, 4)
    explain = fxlrp.compile(model, LRP0, example_inputs=x, capture=capture)
    expected = (2 * model.position * model.head.weight[1]).detach()
    assert_relevance(explain(x, target=1, at="position"), expected, 1e-12)
    assert_relevance(explain(x, target=1, at="pos*")["position"], expected, 1e-12)


def test_a_slice_of_the_parts_of_a_parameter() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(x @ torch.cat(self.layer.weight.chunk(2, 0)[::-1], 0).t())
            return out

    explain = fxlrp.compile(Reversed().double().eval(), "epsilon", capture="symbolic")
    with pytest.raises(UnsupportedOpError, match=r"slice of the results of the node 'chunk'.*select the results"):
        explain(random(2, 4), target=1, at="layer.weight")

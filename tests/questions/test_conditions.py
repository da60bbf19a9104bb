"""Relevance under conditions: what passes chosen channels of a value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError
from helpers import LRP0
from oracles import assert_relevance, random
from questions import channels, language_model, lrp0_under, skips

X = random(2, 2, 6, 6)


@pytest.mark.parametrize("path", ["stem", "block.0", "block.1", "block", "last"])
def test_with_what_bypasses_the_layer(path: str) -> None:
    """LRP-0 is gradient x input, with the gradient masked at the layer."""
    model = skips()
    explain = fxlrp.compile(model, LRP0)
    expected = lrp0_under(model, X, 1, {model.get_submodule(path): channels(0, 2)})
    assert_relevance(explain(X, target=1, only={path: [0, 2]}, bypass=True), expected, 1e-12)


@pytest.mark.parametrize("path", ["stem", "block.0", "block.1", "block", "last"])
def test_without_what_bypasses_the_layer(path: str) -> None:
    model = skips()
    layer = model.get_submodule(path)
    both = lrp0_under(model, X, 1, {layer: channels(0, 2)})
    bypassing = lrp0_under(model, X, 1, {layer: torch.zeros_like})
    explain = fxlrp.compile(model, LRP0)
    assert_relevance(explain(X, target=1, only={path: [0, 2]}), both - bypassing, 1e-12)


def test_several_layers() -> None:
    model = skips()
    kept = {model.last: channels(1), model.block[1]: channels(0, 3)}
    explain = fxlrp.compile(model, LRP0)
    expected = lrp0_under(model, X, 1, kept)
    assert_relevance(explain(X, target=1, only={"last": 1, "block.1": [0, 3]}, bypass=True), expected, 1e-12)
    through = [
        lrp0_under(model, X, 1, {model.last: first, model.block[1]: second})
        for first in (channels(1), torch.zeros_like)
        for second in (channels(0, 3), torch.zeros_like)
    ]
    # What passes through both layers.
    expected = through[0] - through[1] - through[2] + through[3]
    assert_relevance(explain(X, target=1, only={"last": 1, "block.1": [0, 3]}), expected, 1e-12)


@pytest.mark.parametrize("rules", ["epsilon", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("name", ["stem", "block.1", "relu_2"])
def test_all_channels_add_up(rules: str, name: str) -> None:
    options = {"low": -3.0, "high": 3.0} if rules == "epsilon_gamma_box" else {}
    explain = fxlrp.compile(skips(), getattr(fxlrp.presets, rules)(**options))
    count = explain(X, target=1, at=name).shape[1]
    each = explain(X, target=1, only=[{name: channel} for channel in range(count)])
    assert each.shape == (count, *X.shape)
    whole = explain(X, target=1, only={name: torch.ones(count, dtype=torch.bool)})
    assert_relevance(each.sum(0), whole, 1e-10)
    for channel in range(count):
        assert_relevance(each[channel], explain(X, target=1, only={name: channel}), 1e-10)
    if name != "block.1":
        # Nothing bypasses these.
        assert_relevance(whole, explain(X, target=1), 1e-10)


def test_a_conditional_total_is_the_channels_relevance_less_what_its_way_absorbs() -> None:
    explain = fxlrp.compile(skips(), "epsilon")
    only: Any = {"block.1": [2]}
    of_channel = float(explain(X, target=1, at="block.1")[:, 2].sum())
    balance = explain.balance(X, target=1, only=only)
    below = [each for each in balance.nodes if each.node.startswith(("block_0", "stem"))]
    absorbed = -sum(each.created for each in below)
    assert absorbed != 0
    assert float(explain(X, target=1, only=only).sum()) == pytest.approx(of_channel - absorbed, rel=1e-10)


def test_masks_and_functions() -> None:
    explain = fxlrp.compile(skips(), LRP0)
    expected = explain(X, target=1, only={"stem": [0, 2]})
    mask = torch.tensor([True, False, True, False])
    assert_relevance(explain(X, target=1, only={"stem": mask}), expected, 0.0)
    assert_relevance(explain(X, target=1, only={"stem": mask.reshape(4, 1, 1).expand(4, 6, 6)}), expected, 0.0)

    def keep(relevance: Tensor) -> Tensor:
        return relevance * mask.reshape(4, 1, 1)

    assert_relevance(explain(X, target=1, only={"stem": keep}), expected, 1e-12)
    # Other positions for each sample.
    of_samples = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    of_samples[0, :, :3], of_samples[1, :, 3:] = True, True
    found = explain(X, target=1, only={"stem": of_samples})
    assert_relevance(found + explain(X, target=1, only={"stem": ~of_samples}), explain(X, target=1), 1e-12)
    assert_relevance(
        explain(X, target=1, only={"stem": of_samples}, at="stem"), explain(X, target=1, at="stem") * of_samples
    )


def test_features_of_a_transformer() -> None:
    """The channels behind a dense layer are its features, the last dimension."""
    model, ids = language_model(), torch.tensor([[1, 4, 2, 7, 3]])
    explain = fxlrp.compile(model, "attnlrp", example_inputs=ids)
    whole, at_layer = explain(ids, target=(-1, 3)), explain(ids, target=(-1, 3), at="blocks.0")
    each = explain(ids, target=(-1, 3), only=[{"blocks.0": feature} for feature in range(8)])
    assert_relevance(each.sum(0), whole, 1e-10)
    one = explain(ids, target=(-1, 3), only={"blocks.0": 5}, at="blocks.0")
    assert_relevance(one[..., 5], at_layer[..., 5], 1e-12)
    assert float(one.sum()) == pytest.approx(float(at_layer[..., 5].sum()))
    # One position of the sequence.
    mask = torch.zeros(5, 1, dtype=torch.bool)
    mask[2] = True
    parts = [explain(ids, target=(-1, 3), only={"blocks.0": kept}) for kept in (mask, ~mask)]
    assert_relevance(parts[0] + parts[1], whole, 1e-10)


def test_relevance_above_a_condition_is_whole() -> None:
    explain = fxlrp.compile(skips(), LRP0)
    found = explain(X, target=1, only={"block.1": 0}, at=["last", "block.1", "x"])
    assert_relevance(found["last"], explain(X, target=1, at="last"), 1e-12)
    assert_relevance(found["x"], explain(X, target=1, only={"block.1": 0}), 1e-12)
    assert not found["block.1"][:, 1:].any()


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ({"nowhere": 1}, "only='nowhere': no node and no module has this name"),
        ({"stem": 4}, "the value has 4 channels"),
        ({"stem": "first"}, "must be a channel, a list of channels"),
        ({"stem": 1.5}, "must be a channel, a list of channels"),
        ({"stem": None}, "has a condition on 'stem'"),
        ({"stem": torch.ones(3, 6, 6, dtype=torch.bool)}, "does not broadcast to the value"),
        ({}, "only must be a mapping"),
        ([], "only must be a mapping"),
        ("stem", "only must be a mapping"),
        ([{"stem": 1}, {"last": 1}], "must be on the same values"),
        ({"stem": 1, "stem.1": 2}, "two conditions on one value"),
        ({"stem": lambda relevance: relevance.sum()}, "must return a tensor of the shape"),
    ],
)
def test_conditions_that_do_not_fit(only: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fxlrp.compile(skips())(X, target=1, only=only)


def test_no_way_through_both() -> None:
    class Parallel(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.right(x)

    explain = fxlrp.compile(Parallel().eval())
    with pytest.raises(InputError, match="no relevance reaches the node 'left'"):
        explain(torch.ones(1, 3), target=0, only={"left": 0, "right": 0})
    assert explain(torch.ones(1, 3), target=0, only={"left": 0, "right": 0}, bypass=True).abs().sum() > 0


def test_channels_behind_a_permutation_are_not_guessed() -> None:
    class Permuted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = torch.nn.Conv2d(2, 6, 1), torch.nn.Linear(8, 3)
            self.up = torch.nn.Upsample(scale_factor=2)

        def forward(self, x: Tensor) -> Tensor:
            joined = torch.cat([self.up(self.conv(x)), self.up(x)], 1)
            last = joined.permute(0, 2, 3, 1)
            return self.head(last.mean((1, 2)))

    explain, x = fxlrp.compile(Permuted().double().eval(), LRP0), random(2, 2, 6, 6)
    with pytest.raises(InputError, match="is not known: pass a boolean mask"):
        explain(x, target=1, only={"permute": 3})
    masked = explain(x, target=1, only={"permute": torch.arange(8) == 3})
    # The dimension of the channels is known behind joins and upsampling.
    assert_relevance(explain(x, target=1, only={"cat": 3}), masked, 1e-12)
    assert_relevance(explain(x, target=1, only={"up_0": 3}), masked, 1e-12)
    assert masked.abs().sum() > 0


def test_names_that_make_one_identifier() -> None:
    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.ModuleDict({"b": nn.Linear(4, 4)})
            self.a_b = nn.Linear(4, 4)

        def forward(self, x: Tensor, only_a_b: Tensor) -> Tensor:
            out: Tensor = self.a_b((self.a["b"](x) + only_a_b).relu())
            return out

    x, other = random(2, 4), random(2, 4, seed=2)
    explain = fxlrp.compile(Alike().double().eval(), LRP0)
    for rows in ([0, 1], [2, 3]):
        found = explain(x, other, target=1, only={"a.b": rows, "a_b": 1})
        assert_relevance(found["x"], explain(x, other, target=1, only={"a.b": rows})["x"], 1e-12)
    assert not explain(x, other, target=1, only={"a.b": 0, "a_b": 2})["x"].any()

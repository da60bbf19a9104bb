"""The flat rule warns in a dense layer, where it gives all features the same relevance."""

from __future__ import annotations

import warnings

import pytest
from torch import nn

import fxlrp
from fxlrp import rules
from fxlrp.errors import FxlrpWarning
from oracles import random, randomize

CONV = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(48, 4))
OF_TOKENS = nn.Sequential(nn.Linear(6, 5), nn.Flatten(), nn.Linear(20, 4))
DENSE = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def test_a_dense_layer() -> None:
    model, x = randomize(DENSE, 1), random(3, 6)
    with pytest.warns(FxlrpWarning, match="Flat.* gives the same relevance to all features of the node '_0'"):
        explain = fxlrp.compile(model, [("0", rules.Flat())], example_inputs=x)
    found = explain(x, target=0)
    assert bool((found == found[:, :1]).all())


@pytest.mark.parametrize(("layers", "shape"), [(CONV, (3, 2, 6, 6)), (OF_TOKENS, (3, 4, 6))], ids=["conv", "tokens"])
def test_a_layer_that_does_not_read_everything(layers: nn.Module, shape: tuple[int, ...]) -> None:
    model, x = randomize(layers, 1), random(*shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        found = fxlrp.compile(model, [("0", rules.Flat())], example_inputs=x)(x, target=0)
    assert found.flatten(1).std(1).gt(0).all()


def test_another_rule_in_a_dense_layer() -> None:
    model, x = randomize(DENSE, 1), random(3, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        fxlrp.compile(model, [("0", rules.WSquare())], example_inputs=x)

"""share_across_batch: what is alike for all samples is computed once."""

from typing import Any

import pytest
from torch import nn

import fxlrp
import zoo
from fxlrp import Optimizations, rules
from helpers import modules_of
from optimization_checks import alone, counts, kernels, small_net, untrained
from optimization_nets import PRESETS, initialised


@pytest.mark.parametrize(
    ("name", "preset", "count"),
    [
        ("resnet18", PRESETS["epsilon_plus_flat"], 1),
        ("resnet18", PRESETS["epsilon_gamma_box"], 1),
        ("resnet18", PRESETS["epsilon_plus"], 0),
        ("resnet18", [("conv2d", rules.WSquare())], 20),
        ("vgg16", [("linear", rules.Flat()), ("features.0", rules.ZBox(-1.0, 1.0))], 3 + 1),
    ],
    ids="flat zbox neither wsquare both".split(),
)
def test_share_across_batch_counts(name: str, preset: Any, count: int) -> None:
    model = untrained(name)
    assert modules_of(model, nn.Conv2d) == (20 if name == "resnet18" else 13)
    assert counts(model, preset)["share_across_batch"] == count


def test_share_across_batch_counts_every_first_layer() -> None:
    model, _ = small_net("concatenation")
    assert counts(model, "epsilon_plus_flat")["share_across_batch"] == 2


@pytest.mark.parametrize("rule", [rules.Flat(), rules.WSquare(), rules.ZBox(-3.0, 3.0)], ids=str)
def test_share_across_batch_saves_work(rule: rules.Rule) -> None:
    """What convolutions compute for the explanation of a large batch, in elements."""
    model = initialised(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(1)))
    x = zoo.images(16, 6)
    made = []
    for optimizations in (Optimizations.none(), alone("share_across_batch")):
        explain = fxlrp.compile(model, [("conv2d", rule)], optimize=optimizations)
        made.append(kernels(explain, x).convolved)
    assert made[1] < 0.9 * made[0]

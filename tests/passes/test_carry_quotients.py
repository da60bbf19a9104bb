"""carry_quotients: relevance over value is passed on where it is a multiple."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxlrp import rules
from helpers import module_calls, modules_of
from optimization_checks import POOLS, BasicBlock, counts, specialized, untrained
from optimization_nets import PRESETS
from oracles import One, random

WEIGHT, OTHER = random(6, 6, seed=1), random(6, 6, seed=2)


@pytest.mark.parametrize(
    ("name", "preset", "count"),
    [
        ("resnet18", "epsilon", 20 + 17 + 8 + 2 + 1 + 1),
        ("resnet18", "epsilon_plus_flat", 19 + 17 + 8 + 2 + 1 + 1),
        ("vgg16", "epsilon_alpha2_beta1", 13 + 15 + 5 + 1 + 1 + 3),
    ],
)
def test_carry_quotients_counts(name: str, preset: str, count: int) -> None:
    """Every step of these networks except that of Flat, which does not pass on a multiple of its input."""
    model = untrained(name)
    layers = modules_of(model, nn.Conv2d, nn.Linear) + module_calls(model, nn.ReLU, *POOLS) + 1
    sums = modules_of(model, BasicBlock)
    assert layers + sums - preset.endswith("flat") == count
    assert counts(model, PRESETS[preset])["carry_quotients"] == count


def test_carry_quotients_leaves_out_what_hands_on_no_multiple() -> None:
    def function(x: Tensor) -> Tensor:
        return F.linear(torch.softmax(F.linear(F.relu(x) * torch.sigmoid(x), WEIGHT), 1) @ OTHER, WEIGHT) + 1

    # an equal share is no multiple of what it goes to
    for preset, last in ((None, ["add"]), ([("add", rules.Equal())], [])):
        program = specialized(One(function), preset)
        chosen = [node.name for node in program.graph.nodes if node in program.facts.quotients]
        assert chosen == ["relu", "mul", "linear", "softmax", "matmul", "linear_1", *last]

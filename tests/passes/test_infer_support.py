"""infer_support: which values are zero wherever another is."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxlrp import rules
from helpers import module_calls, modules_of
from optimization_checks import POOLS, Fire, counts, specialized, untrained
from optimization_nets import PRESETS
from oracles import One, random

WEIGHT, OTHER = random(6, 6, seed=1), random(6, 6, seed=2)


@pytest.mark.parametrize("preset", ["epsilon", "epsilon_gamma_box"])
@pytest.mark.parametrize(("name", "count"), [("vgg16", 37), ("resnet18", 37), ("squeezenet1_0", 63)])
def test_infer_support_counts(name: str, preset: str, count: int) -> None:
    """What a ReLU reads and makes, its poolings and concatenations, and the flattening before the head.

    In squeezenet the last pooling and the flattening make the output, whose relevance is anyone's choice.
    """
    model = untrained(name)
    relus, pools = module_calls(model, nn.ReLU), module_calls(model, *POOLS)
    expected = 2 * relus + pools + modules_of(model, Fire) + (-1 if name == "squeezenet1_0" else 1)
    assert expected == count
    assert counts(model, PRESETS[preset])["infer_support"] == count


def test_infer_support_knows_where_it_ends() -> None:
    def function(x: Tensor) -> Tensor:
        a = F.linear(x, WEIGHT)
        b = F.relu(F.linear(F.relu(a), OTHER))
        return F.linear(F.relu(a + b), WEIGHT)

    program = specialized(One(function), PRESETS["epsilon"])
    # Not `linear`, which is `a`: the sum hands it a multiple of itself, where it is negative, too.
    supported = [node.name for node in program.graph.nodes if node in program.facts.supported]
    assert supported == ["relu", "linear_1", "relu_1", "add", "relu_2"]
    by_parts = specialized(One(function), PRESETS["epsilon"].override([("add", rules.Equal())]))
    # Half of the sum's relevance reaches `b` where it is zero.
    supported = [node.name for node in by_parts.graph.nodes if node in by_parts.facts.supported]
    assert supported == ["relu", "add", "relu_2"]


@pytest.mark.parametrize(
    ("activation", "is_supported"),
    [
        (F.relu6, True),
        (lambda z: F.hardtanh(z, 0.0, 6.0), True),
        (lambda z: F.hardtanh(z, 0.5, 6.0), False),
        (lambda z: z.clamp(0, 6), True),
        (lambda z: z.clamp(min=0), True),
        (lambda z: z.clamp(min=0.5), False),
        (lambda z: z.clamp_min(0).clamp_max(6), True),
        (lambda z: F.threshold(z, 0.1, 0.0), True),
        (lambda z: F.threshold(z, -0.1, 0.2), False),
        (lambda z: torch.sigmoid(z), False),
    ],
    ids="relu6 hardtanh hardtanh_above_0 clamp clamp_below clamp_above_0 two threshold to_above_0 sigmoid".split(),
)
def test_infer_support_sees_through_activations(activation: Callable[[Tensor], Tensor], is_supported: bool) -> None:
    """If the result is not negative, and positive only where the operand is."""
    program = specialized(One(lambda x: F.linear(activation(F.linear(x, WEIGHT)), OTHER)), PRESETS["epsilon"])
    assert any(node.name == "linear" for node in program.graph.nodes)
    assert ("linear" in {node.name for node in program.facts.supported}) == is_supported

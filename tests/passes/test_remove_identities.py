"""remove_identities: what hands a value on as it is goes."""

import operator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from fxlrp.passes.base import run_passes
from fxlrp.passes.decompose import decompose
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.normalize import normalize
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.passes.remove_identities import remove_identities
from helpers import module_calls
from oracles import assert_relevance, random
from pass_programs import calls, node_named, program_after, value

X = random(2, 6, seed=4)

CANONICAL_PASSES = (functionalize, normalize, decompose)


def test_remove_identities() -> None:
    def function(x: Tensor) -> Tensor:
        y = F.dropout(x.clone(), 0.3, training=False)
        torch._assert(y.dim() == 2, "two dimensions")
        y = y.contiguous().detach() + x
        return F.alpha_dropout(y, training=False)

    program = program_after(CANONICAL_PASSES, function)
    assert remove_identities(program) == 6
    run_passes(program, (remove_dead_code,))
    assert calls(program) == [operator.add]
    (added,) = (node for node in program.graph.nodes if node.target is operator.add)
    assert added.args == (node_named(program, "x"),) * 2
    assert_relevance(value(program, X), function(X), 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "kinds"),
    [
        ("resnet18", 0, ()),
        ("alexnet", 2, (nn.Dropout,)),
        ("googlenet", 1, (nn.Dropout,)),
        ("efficientnet_b0", 10, (nn.Dropout, zoo.torchvision.ops.StochasticDepth)),
        ("convnext_tiny", 18, (zoo.torchvision.ops.StochasticDepth,)),
    ],
)
def test_remove_identities_counts(name: str, count: int, kinds: tuple[type[nn.Module], ...]) -> None:
    """As often as dropout and stochastic depth run; efficientnet_b0 has 16 of the latter and calls 9."""
    model = zoo.build(name)
    if name not in ("alexnet",):  # whose images must be larger
        assert sum(module_calls(model, kind) for kind in kinds) == count
    assert remove_identities(program_after(CANONICAL_PASSES, model)) == count

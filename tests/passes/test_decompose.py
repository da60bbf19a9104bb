"""decompose: composite operations become their parts."""

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxlrp.decomposition import DECOMPOSITIONS
from fxlrp.operation import Family
from fxlrp.passes.decompose import decompose
from fxlrp.passes.functionalize import functionalize
from fxlrp.passes.normalize import normalize
from fxlrp.vocabulary import CANONICAL
from helpers import modules_of
from oracles import assert_relevance, random
from pass_programs import calls, node_named, program_after, value

X = random(2, 6, seed=4)


@pytest.mark.parametrize(
    ("function", "made"),
    [
        (lambda x: torch.rsub(x, 3), [operator.sub]),
        (lambda x: torch.rsub(x, 3, alpha=2), [operator.mul, operator.sub]),
        (lambda x: torch.add(x, x, alpha=2), [operator.mul, operator.add]),
        (lambda x: torch.sub(x, 1, alpha=0.5), [operator.mul, operator.sub]),
        (lambda x: x.add(4), [operator.add]),
        (lambda x: F.glu(x), [torch.chunk, operator.getitem, operator.getitem, torch.sigmoid, operator.mul]),
        (
            lambda x: F.glu(x, dim=0),
            [torch.chunk, operator.getitem, operator.getitem, torch.sigmoid, operator.mul],
        ),
        (lambda x: x.where(x > 0, x * 2), [operator.gt, operator.mul, torch.where]),
    ],
    ids=["rsub", "rsub_alpha", "add_alpha", "sub_alpha", "add", "glu", "glu_dim", "where"],
)
def test_decompose(function: Callable[[Tensor], Tensor], made: list[Any]) -> None:
    program = program_after((functionalize, normalize), function)
    assert decompose(program) == 1
    assert sorted(map(str, calls(program))) == sorted(map(str, made))
    assert_relevance(value(program, X), function(X), 1e-13)


def test_decompose_keeps_name_module_and_line() -> None:
    program = program_after((functionalize, normalize), nn.Sequential(nn.Linear(6, 6), nn.GLU()))
    (glu,) = (node for node in program.graph.nodes if node.target is F.glu)
    name, stack = glu.name, glu.meta["nn_module_stack"]
    decompose(program)
    assert node_named(program, name).target is operator.mul
    for node in program.graph.nodes:
        if node.target in (torch.chunk, operator.getitem, torch.sigmoid, operator.mul):
            assert node.meta["nn_module_stack"] == stack


def test_decompose_counts() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gates = nn.Sequential(nn.GLU(), nn.GLU())

        def forward(self, x: Tensor) -> Tensor:
            x = self.gates(x.repeat(1, 4))
            return torch.add(x, x, alpha=3) + torch.rsub(x, 1)

    model = Many()
    program = program_after((functionalize, normalize), model)
    assert decompose(program) == modules_of(model, nn.GLU) + 2 == 4
    assert decompose(program) == 0
    assert_relevance(value(program, X), model(X), 1e-13)


def test_every_composite_operation_has_a_decomposition() -> None:
    composites = {op.name for op in CANONICAL.operations.values() if op.family is Family.COMPOSITE}
    # A quotient is decomposed where its numerator is a number, a power where its exponent is a value, a reduction where
    # it is by product, pooling where it returns indices, a layer where its weight is computed, an einsum where it takes
    # a diagonal, values that are put at indices where they are not added, a norm whose weight is computed, and what is
    # filled in or a bound if that is computed.
    some_calls = {"div", "pow", "scatter_reduce", "index_reduce", "linear", "embedding", "einsum", "index_put"}
    some_calls |= {"layer_norm", "rms_norm", "batch_norm", "instance_norm", "group_norm"}
    some_calls |= {"masked_fill", "clamp", "clamp_min", "clamp_max"}
    some_calls |= {f"{name}{n}d" for name in ("max_pool", "conv", "conv_transpose") for n in (1, 2, 3)}
    reduced = "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div "
    reduced += "gaussian_nll_loss soft_margin_loss hinge_embedding_loss margin_ranking_loss poisson_nll_loss"
    assert {*composites, *some_calls, *reduced.split()} == set(DECOMPOSITIONS)

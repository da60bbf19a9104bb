"""Attention is recognized however it is written, and only where its rules are those of its transposed map."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp import Optimizations, rules
from fxlrp.program import annotation
from fxlrp.vocabulary import CANONICAL
from helpers import assert_close
from oracles import One, Three, random, randomize
from traced import Largest

Q, K, V = random(2, 2, 3, 4, seed=1), random(2, 2, 5, 4, seed=2), random(2, 2, 5, 6, seed=3)
SEED = random(2, 2, 3, 6, seed=4)
KEEP = torch.tensor([[True, True, False, True, True], [True] * 5, [False, True, True, False, True]])
BIAS = random(1, 5, seed=5)
LOW = torch.finfo(torch.float64).min

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
SPELLED: dict[str, Attend] = {
    "one call": F.scaled_dot_product_attention,
    "one call, causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "one call, masked": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=KEEP, scale=0.2),
    "one call, biased": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=BIAS),
    "scaled queries": lambda q, k, v: ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v,
    "scaled scores": lambda q, k, v: torch.softmax(torch.matmul(q, k.transpose(2, 3)) * 0.5 + BIAS, dim=-1) @ v,
    "divided scores": lambda q, k, v: F.softmax((q @ k.mT) / math.sqrt(4), dim=-1) @ v,
    "divided by a tensor": lambda q, k, v: F.softmax((q @ k.mT) / torch.tensor(2.0).double(), dim=-1) @ v,
    "scaled by a size": lambda q, k, v: ((q @ k.mT) * (q.size(-1) ** -0.5)).softmax(-1) @ v,
    "not scaled, biased": lambda q, k, v: torch.softmax(BIAS + q @ k.mT, -1) @ v,
    "two masks": lambda q, k, v: ((q @ k.mT + BIAS).masked_fill(~KEEP, -math.inf)).softmax(-1) @ v,
    "filled with the least number": lambda q, k, v: (q @ k.mT).masked_fill(~KEEP, LOW).softmax(-1) @ v,
    "where": lambda q, k, v: torch.where(KEEP, q @ k.mT, -math.inf).softmax(-1) @ v,
    "where, the other way": lambda q, k, v: torch.where(~KEEP, -1e9, q @ k.mT).softmax(-1) @ v,
    "einsum": lambda q, k, v: torch.einsum(
        "bhqk,bhkd->bhqd", (torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.5).softmax(-1), v
    ),
    "einsum, heads last": lambda q, k, v: torch.einsum(
        "bhqk,bkhd->bqhd",
        torch.einsum("bqhd,bkhd->bhqk", q.transpose(1, 2), k.transpose(1, 2)).softmax(-1),
        v.transpose(1, 2),
    ).transpose(1, 2),
    "mask of integers": lambda q, k, v: ((q @ k.mT) * 0.5 + (1 - KEEP.long()) * -10000).softmax(-1) @ v,
    "bmm": lambda q, k, v: torch.bmm(
        torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).softmax(-1), v.flatten(0, 1)
    ).unflatten(0, (2, 2)),
    "in the type of the scores": lambda q, k, v: F.softmax((q @ k.mT).float(), -1).type_as(v) @ v,
    "dropout": lambda q, k, v: F.dropout(F.softmax(q @ k.mT, -1), 0.1, False) @ v,
}
PRESETS = ("epsilon", "attnlrp", "cplrp")


def compiled(attend: Attend, preset: Any = "attnlrp", **options: Any) -> Any:
    if isinstance(preset, str):
        preset = getattr(fxlrp.presets, preset)(epsilon=1e-6)
    return fxlrp.compile(Three(attend).eval(), preset, example_inputs=(Q, K, V), **options)


def operations(explain: Any) -> set[str]:
    """The operations that pass on relevance."""
    known = CANONICAL
    annotated = (known.operation(node) for node in explain.nodes if annotation(node) is not None)
    return {operation.name for operation in annotated if operation is not None}


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("name", SPELLED)
def test_every_spelling_is_one_operation(name: str, capture: str) -> None:
    found = operations(compiled(SPELLED[name], capture=capture))
    assert "attention" in found
    assert not found & {"softmax", "safe_softmax", "matmul", "einsum"}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", [name for name in SPELLED if name != "in the type of the scores"])
def test_one_operation_equals_the_written_out_form(name: str, preset: str) -> None:
    fused = compiled(SPELLED[name], preset)
    plain = compiled(SPELLED[name], preset, optimize=False)
    assert "attention" in operations(fused) and "attention" not in operations(plain)
    for one, other in zip(values(fused), values(plain), strict=True):
        assert_close(one, other)


def values(explain: Any) -> tuple[Tensor, ...]:
    found = explain(Q, K, V, seed=SEED)
    return tuple(found.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_constant_operands_leave_their_shares_to_the_others(preset: str) -> None:
    attends: list[tuple[Callable[[Tensor], Tensor], Tensor]] = [
        (lambda q: (q @ K.mT).softmax(-1) @ V, Q),
        (lambda k: (Q @ k.mT).softmax(-1) @ V, K),
        (lambda k: (Q @ k.mT).softmax(-1) @ k, K),
        (lambda q: (q @ K.mT).softmax(-1) @ (K * q.sum()), Q),
    ]
    for attend, x in attends:
        rule = getattr(fxlrp.presets, preset)(epsilon=1e-6)
        explainers = [
            fxlrp.compile(One(attend).eval(), rule, example_inputs=x, optimize=each) for each in (True, False)
        ]
        assert "attention" in operations(explainers[0]) or preset == "cplrp"
        assert_close(*(explain(x, seed=attend(x)) for explain in explainers))


def test_a_rule_of_the_user_keeps_attention_written_out() -> None:
    attend = SPELLED["scaled scores"]
    for pair in (("softmax", rules.Constant()), ("softmax", rules.Taylor(0.1)), ("matmul", rules.Epsilon(0.1))):
        preset = fxlrp.presets.attnlrp().override([pair])
        explain = compiled(attend, preset)
        assert "attention" not in operations(explain)


def test_requested_weights_and_scores_are_written_out() -> None:
    for at in ("softmax", "matmul"):
        explain = compiled(SPELLED["scaled queries"], at=at)
        assert "softmax" in operations(explain)
        assert explain(Q, K, V, seed=SEED).shape == (2, 2, 3, 5)


def test_weights_that_something_else_reads_are_written_out() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (q @ k.mT).softmax(-1)
        return weights @ v + weights.sum(-1, keepdim=True)

    assert "softmax" in operations(compiled(attend))


def test_a_softmax_over_the_queries_is_not_attention() -> None:
    assert "softmax" in operations(compiled(lambda q, k, v: (q @ k.mT).softmax(-2) @ v))


def test_scores_that_are_capped_are_not_attention() -> None:
    assert "softmax" in operations(compiled(lambda q, k, v: ((q @ k.mT).tanh() * 5).softmax(-1) @ v))


def test_truth_values_that_are_added_are_no_mask() -> None:
    """A sum adds them as zero and one."""
    assert "softmax" in operations(compiled(lambda q, k, v: (q @ k.mT + KEEP).softmax(-1) @ v))


def test_the_optimization_can_be_disabled() -> None:
    explain = compiled(SPELLED["one call"], optimize=Optimizations(fuse_attention=False))
    assert "softmax" in operations(explain)


def test_the_table_says_that_attention_is_one_operation() -> None:
    table = str(compiled(SPELLED["one call"]).table())
    assert "attention as one operation, softmax by Taylor" in table
    assert "attention as one operation, the weights are constants" in str(
        compiled(SPELLED["one call"], "cplrp").table()
    )


def test_the_table_says_that_only_one_product_has_a_stabilizer() -> None:
    table = str(compiled(SPELLED["one call"], optimize=False).table())
    assert "Epsilon(epsilon=0)" in table
    assert "only the product with the values has a stabilizer" in table


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_is_one_operation(need_weights: bool) -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = randomize(nn.MultiheadAttention(4, 2, batch_first=True))

        def forward(self, x: Tensor) -> Any:
            return self.attend(x, x, x, need_weights=need_weights)[0]

    x = random(2, 5, 4, seed=1)
    for capture in ("symbolic", "export"):
        explain = fxlrp.compile(Attend().eval(), "attnlrp", example_inputs=x, capture=capture)
        assert "attention" in operations(explain)


def test_no_matrix_of_tokens_by_tokens_exists() -> None:
    """Memory is linear in the length, forward and back."""
    x = random(1, 300, 4, seed=1)

    def attend(x: Tensor) -> Tensor:
        return ((x @ x.mT) * 0.5).softmax(-1) @ x

    sizes = []
    for optimize in (True, False):
        explain = fxlrp.compile(One(attend).eval(), "attnlrp", example_inputs=x, optimize=optimize)
        with Largest() as largest:
            explain(x, seed=x)
        sizes.append(largest.size)
    assert sizes[0] == x.numel() and sizes[1] >= 300 * 300

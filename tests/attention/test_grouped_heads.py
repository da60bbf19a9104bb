"""Heads that share keys and values, as einsum writes them, against the vector-Jacobian product of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import rules
from fxlrp.functions import repeat_heads
from fxlrp.program import annotation
from fxlrp.relevance.element_relevance import repeat_heads_relevance
from fxlrp.vocabulary import CANONICAL
from helpers import as_tuple
from oracles import Three, assert_relevance, random
from traced import Largest

SIZES = dict(b=2, h=2, g=3, f=2, q=3, k=5, d=4, e=6)
# The products of queries and keys, and of weights and values.
GROUPS = {
    "one head of keys": ("bhqd,bkd->bhqk", "bhqk,bke->bhqe"),
    "groups": ("bhgqd,bhkd->bhgqk", "bhgqk,bhke->bhgqe"),
    "groups, heads last": ("bqhgd,bkhd->bhgqk", "bhgqk,bkhe->bqhge"),
    "groups, keys first": ("bkhd,bqhgd->bhgqk", "bhgqk,bkhe->bhgqe"),
    "two kinds of groups": ("bfghqd,bhkd->bhfgqk", "bhfgqk,bhke->bqhfge"),
    "groups that share values only": ("bhgqd,bhgkd->bhgqk", "bhgqk,bhke->bhgqe"),
}
# The group is not in front of the queries, or in front of heads that do not share.
OTHERS = {
    "queries before heads": ("bqhgd,bkhd->bqhgk", "bqhgk,bkhe->bqhge"),
    "groups before heads": ("bghqd,bhkd->bghqk", "bghqk,bhke->bghqe"),
}


class Grouped:
    """The model, and its operands: queries, keys and values."""

    def __init__(self, of_keys: str, of_values: str, mask: Tensor | None = None, **sizes: int) -> None:
        first, second = of_keys.partition("->")[0].split(",")
        value = of_values.partition("->")[0].split(",")[1]
        self.keys_first = "q" not in first
        letters = (second, first, value) if self.keys_first else (first, second, value)
        known = {**SIZES, **sizes}
        self.operands = tuple(random(*(known[each] for each in letter), seed=i) for i, letter in enumerate(letters))
        self.of_keys, self.of_values, self.mask = of_keys, of_values, mask

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum(self.of_keys, *((k, q) if self.keys_first else (q, k))) * 0.5
        if self.mask is not None:
            scores = scores + self.mask
        return torch.einsum(self.of_values, scores.softmax(-1), v)

    def compiled(self, **options: Any) -> fxlrp.Explainer:
        preset = fxlrp.presets.attnlrp(epsilon=1e-12)
        return fxlrp.compile(Three(self).eval(), preset, example_inputs=self.operands, **options)

    def expected(self, seed: Tensor) -> list[Tensor]:
        """Of queries and keys a quarter of input times gradient, and of values a half (Achtibat et al., 2024)."""
        inputs = [each.clone().requires_grad_() for each in self.operands]
        out = self(*inputs)
        gradients = torch.autograd.grad(out, inputs, seed / out.detach())
        shares = (0.25, 0.25, 0.5)
        return [share * x.detach() * g for share, x, g in zip(shares, inputs, gradients, strict=True)]


def check(model: Grouped, explain: fxlrp.Explainer) -> None:
    seed = random(*model(*model.operands).shape, seed=9)
    found = explain(*model.operands, seed=seed)
    assert isinstance(found, dict)
    for one, other in zip(found.values(), model.expected(seed), strict=True):
        assert_relevance(one, other, 1e-8)


def is_fused(explain: fxlrp.Explainer) -> bool:
    known = CANONICAL
    operations = (known.operation(node) for node in explain.nodes if annotation(node) is not None)
    return any(operation is not None and operation.name == "attention" for operation in operations)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_grouped_heads_are_one_operation(name: str, capture: Any) -> None:
    model = Grouped(*GROUPS[name])
    explain = model.compiled(capture=capture)
    assert is_fused(explain)
    check(model, explain)


@pytest.mark.parametrize("shape", [(3, 5), (3, 3, 5), (2, 1, 1, 1, 5)])
@pytest.mark.parametrize("low", [-1.0, -1e5, torch.finfo(torch.float64).min / 2])
def test_masks(shape: tuple[int, ...], low: float) -> None:
    """A row of low numbers does not hide all keys of its query, unless they round off the scores."""
    mask = random(*shape, seed=6)
    mask[..., 1] += low
    model = Grouped(*GROUPS["groups, heads last"], mask=mask)
    explain = model.compiled()
    assert is_fused(explain)
    check(model, explain)


@pytest.mark.parametrize("name", OTHERS)
def test_other_orders_stay_as_they_are_written(name: str) -> None:
    model = Grouped(*OTHERS[name])
    explain = model.compiled()
    assert not is_fused(explain)
    check(model, explain)


@pytest.mark.parametrize("name", ["one head of keys", "groups, heads last"])
def test_keys_and_values_are_not_repeated(name: str) -> None:
    """The largest tensor is as large as the queries, though the keys are longer."""
    model = Grouped(*GROUPS[name], h=4, g=4, q=2, k=20, d=8, e=8)
    explain = model.compiled()
    seed = model(*model.operands)
    with Largest() as largest:
        explain(*model.operands, seed=seed)
    assert largest.size == max(each.numel() for each in model.operands)


class OfPyTorch(nn.Module):
    """Attention with ``enable_gqa``, whose values are projected in front."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values = (nn.Linear(8, 4 * each, bias=False) for each in (4, heads, heads))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.queries, self.keys, self.values))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return mixed.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("capture", ["symbolic", "export"])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
def test_heads_of_pytorch_are_not_repeated(preset: str, heads: int, capture: Any) -> None:
    torch.manual_seed(0)
    model, x = OfPyTorch(heads).double().eval(), random(2, 5, 8, seed=1)
    explain = fxlrp.compile(model, preset, example_inputs=x, capture=capture)
    assert is_fused(explain)
    called = [node.target for node in explain.graph_module.graph.nodes]
    assert repeat_heads not in called and repeat_heads_relevance not in called
    plain = fxlrp.compile(model, preset, example_inputs=x, capture=capture, optimize=False)
    assert repeat_heads in [node.target for node in plain.graph_module.graph.nodes]
    for target in ((-1, 3), fxlrp.targets.each([(1, 0), (4, 9)])):
        assert_relevance(explain(x, target=target), plain(x, target=target))


def test_heads_that_are_explained_are_repeated() -> None:
    """The relevance of the repeated keys, and a rule for repetitions, are those of the written-out model."""
    torch.manual_seed(0)
    model, x = OfPyTorch(2).double().eval(), random(2, 5, 8, seed=1)
    written_out = fxlrp.Optimizations(fuse_attention=False)
    names = [node.name for node in fxlrp.compile(model, "attnlrp", example_inputs=x, optimize=written_out).nodes]
    repeated = [name for name in names if "repeat_heads" in name]
    assert len(repeated) == 2
    for told in ({"at": repeated}, {"rules": fxlrp.presets.attnlrp().override([("repeat_heads", rules.Gradient())])}):
        options: dict[str, Any] = {"rules": "attnlrp", "example_inputs": x, **told}
        found, plain = (fxlrp.compile(model, **options, optimize=each)(x, target=(-1, 3)) for each in (True, False))
        for one, other in zip(as_tuple(found), as_tuple(plain), strict=True):
            assert_relevance(one, other)

"""Embedding bags: each token in proportion to what its vector adds to the bag, by its formula written out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
from fxlrp import presets
from helpers import FRONT_ENDS, slow_ones
from oracles import random

CAPTURES = ["symbolic", *slow_ones("export")]
EPSILON = 0.1
TABLE = random(9, 4, seed=1)
BAGS = torch.tensor([[0, 1, 2], [2, 2, 8], [5, 0, 7]])
FLAT, OFFSETS = torch.tensor([3, 1, 1, 0, 8, 2]), torch.tensor([0, 2, 2, 5])
SEED = random(3, 4, seed=2)


class Bag(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table, self.options = nn.Parameter(TABLE.clone()), options

    def forward(self, tokens: Tensor, offsets: Tensor | None = None) -> Tensor:
        return F.embedding_bag(tokens, self.table, offsets, **self.options)


def shared(vectors: Tensor, seed: Tensor) -> Tensor:
    """``R_t = sum_d w_td / s(z_d) R_d`` of the vectors of one bag, already weighted."""
    z = vectors.sum(0)
    return (vectors * (seed / torch.where(z < 0, z - EPSILON, z + EPSILON))).sum(1)


def relevance_of(model: nn.Module, *inputs: Tensor, seed: Tensor, capture: Any) -> Tensor:
    explain = fxlrp.compile(model.eval(), presets.epsilon(EPSILON), example_inputs=inputs, capture=capture)
    relevance = explain(*inputs, seed=seed)
    assert isinstance(relevance, Tensor) and relevance.dtype == TABLE.dtype
    return relevance


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("padding", [None, 2, -1])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_of_one_length(mode: str, padding: int | None, capture: str) -> None:
    model = Bag(mode=mode, padding_idx=padding)
    expected = []
    for tokens, seed in zip(BAGS, SEED, strict=True):
        counts = torch.ones(3, dtype=torch.bool) if padding is None else tokens != padding % 9
        vectors = TABLE[tokens] * counts[:, None]
        expected.append(shared(vectors / counts.sum() if mode == "mean" else vectors, seed))
    found = relevance_of(model, BAGS, seed=SEED, capture=capture)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_at_offsets(mode: str, last: bool, capture: str) -> None:
    """The offsets select, and have no relevance; an empty bag has none to pass on."""
    offsets = torch.cat([OFFSETS, torch.tensor([6])]) if last else OFFSETS
    seed, bounds = random(4, 4, seed=3), [0, 2, 2, 5, 6]
    expected = []
    for bag in range(4):
        vectors = TABLE[FLAT[bounds[bag] : bounds[bag + 1]]]
        expected.append(shared(vectors / max(len(vectors), 1) if mode == "mean" else vectors, seed[bag]))
    model = Bag(mode=mode, include_last_offset=last)
    found = relevance_of(model, FLAT, offsets, seed=seed, capture=capture)
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("capture", CAPTURES)
def test_weights_of_samples_that_are_constants(capture: str) -> None:
    class Weighted(Bag):
        def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
            return F.embedding_bag(tokens, self.table, mode="sum", per_sample_weights=weights)

    weights = random(3, 3, seed=4)
    explain = fxlrp.compile(
        Weighted().eval(),
        presets.epsilon(EPSILON),
        example_inputs=(BAGS, weights),
        capture=capture,  # type: ignore[arg-type]
        constants=["weights"],
    )
    pairs = zip(BAGS, weights, SEED, strict=True)
    expected = torch.stack([shared(TABLE[tokens] * weight[:, None], seed) for tokens, weight, seed in pairs])
    torch.testing.assert_close(explain(BAGS, weights, seed=SEED), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("capture", CAPTURES)
@pytest.mark.parametrize("at_offsets", [False, True])
@pytest.mark.parametrize("padding", [None, 2])
def test_the_largest_of_a_bag_takes_all(padding: int | None, at_offsets: bool, capture: str) -> None:
    """The vector that has the largest element receives the relevance of the feature."""
    inputs = (FLAT, OFFSETS) if at_offsets else (BAGS,)
    bounds = [0, 2, 2, 5, 6] if at_offsets else [0, 3, 6, 9]
    flat, seed = inputs[0].flatten(), random(len(bounds) - 1, 4, seed=3)
    expected = torch.zeros(len(flat), dtype=torch.float64)
    for bag, (start, end) in enumerate(itertools.pairwise(bounds)):
        members = [index for index in range(start, end) if flat[index] != padding]
        for feature in range(4):
            if members:
                winner = max(members, key=lambda index, feature=feature: float(TABLE[flat[index], feature]))  # type: ignore[misc]
                expected[winner] += seed[bag, feature]
    model = Bag(mode="max", padding_idx=padding)
    torch.testing.assert_close(
        model(*inputs),
        F.embedding_bag(*inputs[:1], TABLE, *inputs[1:], mode="max", padding_idx=padding),  # type: ignore[misc]
    )
    found = relevance_of(model, *inputs, seed=seed, capture=capture)
    # Equal tokens tie, and may share what the winner receives.
    sums = [[found.flatten()[flat == token].sum(), expected[flat == token].sum()] for token in flat.unique()]
    for one, other in sums:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_a_layer_of_bags_for_another_batch(mode: str, capture: str) -> None:
    torch.manual_seed(0)
    layer = nn.EmbeddingBag(9, 4, mode=mode).double()
    model = nn.Sequential(layer, nn.Linear(4, 2, bias=False).double()).eval()
    explain = fxlrp.compile(model, presets.epsilon(1e-12), example_inputs=BAGS, capture=capture)  # type: ignore[arg-type]
    for tokens in (BAGS, BAGS[:2], BAGS[:, :2]):
        relevance = explain(tokens, target=1)
        assert isinstance(relevance, Tensor)
        torch.testing.assert_close(relevance.sum(1), model(tokens)[:, 1], rtol=1e-8, atol=1e-10)

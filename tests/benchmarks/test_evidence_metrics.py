"""The metrics on explanations whose scores are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks.evidence.metrics import Score, heat, mass_accuracy, rank_accuracy, score

MASK = torch.tensor([[[True, True, False], [False, False, False]]])


def image(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 2, 3)


def both(relevance: Tensor, pooling: str = "absolute") -> tuple[float, float]:
    found = score(relevance, MASK.expand(len(relevance), -1, -1), "image", pooling, False)  # type: ignore[arg-type]
    return found.mass, found.rank


def test_relevance_equal_to_the_mask_is_perfect() -> None:
    assert both(MASK[:, None].float()) == (1.0, 1.0)
    assert both(-MASK[:, None].float()) == (1.0, 1.0)


def test_relevance_outside_the_mask_scores_zero() -> None:
    assert both((~MASK)[:, None].float()) == (0.0, 0.0)


def test_values_by_hand() -> None:
    mass, rank = both(image(3.0, 1.0, 2.0, 0.0, 0.0, -2.0))
    assert mass == pytest.approx(4 / 8)
    assert rank == 0.5  # the two hottest are 3 inside, and one of the 2s outside
    mass, rank = both(image(3.0, -1.0, 2.0, 0.0, 0.0, -2.0), "positive")
    assert mass == pytest.approx(3 / 5) and rank == 0.5


def test_of_equally_hot_places_the_expected_share_counts() -> None:
    even = torch.ones(1, 2, 3)
    assert rank_accuracy(even, MASK).item() == pytest.approx(2 / 6)
    assert mass_accuracy(even, MASK).item() == pytest.approx(2 / 6)
    one_hot = torch.zeros(1, 2, 3)
    one_hot[0, 0, 0] = 1.0
    assert rank_accuracy(one_hot, MASK).item() == pytest.approx((1 + 1 / 5) / 2)


def test_the_expected_share_is_that_of_random_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 3, (1, 6), generator=generator).float()
    mask = torch.tensor([[True, False, True, True, False, False]])
    drawn = [
        mask[0, (values[0] + 0.1 * torch.rand(6, generator=generator)).topk(3).indices].float().mean().item()
        for _ in range(4000)
    ]
    assert rank_accuracy(values, mask).item() == pytest.approx(sum(drawn) / len(drawn), abs=0.02)


def test_without_heat_nothing_is_found() -> None:
    assert mass_accuracy(torch.zeros(1, 2, 3), MASK).item() == 0.0
    assert both(torch.zeros(1, 1, 2, 3)) == pytest.approx((0.0, 2 / 6))


def test_masks_of_different_sizes() -> None:
    masks = torch.tensor([[True, False, False, False], [True, True, True, False]])
    heats = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 5.0]])
    assert rank_accuracy(heats, masks).tolist() == [1.0, pytest.approx(2 / 3)]
    assert mass_accuracy(heats, masks).tolist() == [pytest.approx(0.4), pytest.approx(9 / 14)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sample_without_finite_relevance_scores_zero_and_is_counted(bad: float) -> None:
    relevance = torch.cat([MASK[:, None].float(), MASK[:, None].float()])
    relevance[1, 0, 1, 1] = bad
    found = score(relevance, MASK.expand(2, -1, -1), "image", "absolute", False)
    assert found == Score(mass=0.5, rank=0.5, unusable=1)


def test_features_are_summed_before_the_sign_counts() -> None:
    relevance = torch.tensor([[[2.0, -3.0], [1.0, 1.0]]])  # two tokens of two features
    assert heat(relevance, "tokens", "absolute", False).tolist() == [[1.0, 2.0]]
    assert heat(relevance, "tokens", "positive", False).tolist() == [[0.0, 2.0]]
    assert heat(relevance, "graph", "positive", True).tolist() == [[5.0, 2.0]]  # a gradient: magnitudes add up
    channels = relevance.view(1, 2, 1, 2)
    assert heat(channels, "image", "absolute", False).tolist() == [[[3.0, 2.0]]]

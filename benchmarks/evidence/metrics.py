"""How much of an explanation is where the answer is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.evidence.samples import Kind, Pooling

POOLINGS: tuple[Pooling, ...] = ("absolute", "positive")
FEATURES = {"image": 1, "tokens": -1, "graph": -1}  # the dimension that one pixel, token or node has


@dataclass(frozen=True)
class Score:
    """The means over samples, and how many samples had no usable explanation."""

    mass: float
    rank: float
    unusable: int


def heat(relevance: Tensor, kind: Kind, pooling: Pooling, is_gradient: bool) -> Tensor:
    """One value for each pixel, token or node, never negative.

    Relevance is summed over features, then what counts is its absolute value or its positive part. A gradient is no
    relevance: its features do not add up, and what counts is the sum of their absolute values.
    """
    if is_gradient:
        return relevance.abs().sum(FEATURES[kind])
    total = relevance.sum(FEATURES[kind])
    return total.abs() if pooling == "absolute" else total.clamp(min=0)


def mass_accuracy(heat: Tensor, masks: Tensor) -> Tensor:
    """The share of heat that is inside the mask, for each sample; 0 where there is no heat (Arras et al., 2022)."""
    heat, masks = heat.flatten(1).double(), masks.flatten(1)
    total = heat.sum(1)
    return torch.where(total > 0, (heat * masks).sum(1) / total, 0.0)


def rank_accuracy(heat: Tensor, masks: Tensor) -> Tensor:
    """Of as many of the hottest places as the mask has, the share inside the mask (Arras et al., 2022).

    This is also the precision of (Clark et al., 2024). Of places that are equally hot, the expected share if they are
    drawn at random counts, so an explanation without any heat is as good as a random one.
    """
    heat, masks = heat.flatten(1), masks.flatten(1)
    size = masks.sum(1)
    last = heat.sort(1, descending=True).values.gather(1, (size - 1)[:, None])  # the coolest that is counted
    above, level = heat > last, heat == last
    open_places = size - above.sum(1)
    hits = (above & masks).sum(1) + open_places * (level & masks).sum(1) / level.sum(1)
    return hits.double() / size


def score(relevance: Tensor, masks: Tensor, kind: Kind, pooling: Pooling, is_gradient: bool) -> Score:
    """The means of both metrics. A sample with NaN or infinity scores zero."""
    usable = relevance.flatten(1).isfinite().all(1)
    values = heat(relevance, kind, pooling, is_gradient)[usable]
    mass, rank = mass_accuracy(values, masks[usable]), rank_accuracy(values, masks[usable])
    count = len(masks)
    return Score(mass.sum().item() / count, rank.sum().item() / count, count - int(usable.sum()))

"""Whether a result is right: how far it is from that of the unoptimised program, and how far rounding alone gets."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

import fxlrp
from benchmarks.explainers import Subject, reference, rules

TOLERANCE = 1e-3  # in float32; more where rounding alone makes as much
TOLERANCE_FLOAT64 = 1e-6
NUDGE = 1e-6  # several units in the last place of float32: what other kernels and another order of sums come to


def difference(result: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    result, expected = result.detach().double(), expected.detach().double()
    return float((result - expected).abs().max() / expected.abs().max())


def rounding(subject: Subject, expected: Tensor) -> float:
    """What a nudge of the images does to the unoptimised relevance.

    Where a denominator is almost zero or two pixels compete for the maximum of a pooling window, that is a lot.
    """
    noise = torch.randn(subject.images.shape, generator=torch.Generator().manual_seed(1)).to(subject.images)
    return difference(reference(replace(subject, images=subject.images * (1 + NUDGE * noise))), expected)


def optimized_in_float64(subject: Subject) -> float:
    """The difference that optimizations make to the first image in float64, where rounding hides nothing."""
    exact = Subject(copy.deepcopy(subject.model).double(), subject.images[:1].double(), subject.preset)
    return difference(fxlrp.compile(exact.model, rules=rules(exact))(exact.images), reference(exact))


def tolerance(noise: float) -> float:
    """The largest difference that a float32 result may have."""
    return max(TOLERANCE, 10 * noise)

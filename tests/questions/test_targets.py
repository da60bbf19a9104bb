"""Contrasts, spans of tokens and regions, against seeds and single targets by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.errors import InputError
from fxlrp.targets import contrast, each, region, span
from helpers import LRP0
from oracles import assert_relevance, random
from questions import language_model, skips

X = random(2, 2, 6, 6)
IDS = torch.tensor([[1, 4, 2, 7, 3, 8], [5, 5, 0, 9, 10, 1]])


def test_a_contrast_of_two_classes() -> None:
    explain = fxlrp.compile(skips(), "epsilon_plus")
    difference = explain(X, target=0) - explain(X, target=2)
    assert_relevance(explain(X, target=contrast(0, 2)), difference, 1e-10)
    of_samples = explain(X, target=[0, 1]) - explain(X, target=[2, 0])
    assert_relevance(explain(X, target=contrast([0, 1], [2, 0])), of_samples, 1e-10)


def test_a_class_against_the_others() -> None:
    explain = fxlrp.compile(skips(), LRP0)
    mean = (explain(X, target=0) + explain(X, target=2)) / 2
    assert_relevance(explain(X, target=contrast(1)), explain(X, target=1) - mean, 1e-10)


def test_a_token_against_the_others_at_its_position() -> None:
    explain = fxlrp.compile(language_model(), "attnlrp", example_inputs=IDS)
    others = sum(explain(IDS, target=(2, token)) for token in range(11) if token != 4) / 10
    assert_relevance(explain(IDS, target=contrast((2, 4))), explain(IDS, target=(2, 4)) - others, 1e-8)
    two = explain(IDS, target=(2, 4)) - explain(IDS, target=(2, 5))
    assert_relevance(explain(IDS, target=contrast((2, 4), (2, 5))), two, 1e-8)
    apart = explain(IDS, target=(2, 4)) - explain(IDS, target=(3, 5))
    assert_relevance(explain(IDS, target=contrast((2, 4), (3, 5))), apart, 1e-8)


@pytest.mark.parametrize("optimize", [True, False])
def test_a_span_is_the_sum_of_its_tokens(optimize: bool) -> None:
    explain = fxlrp.compile(language_model(), "attnlrp", example_inputs=IDS, optimize=optimize)
    expected = sum(explain(IDS, target=(position - 1, IDS[:, position])) for position in (2, 3, 4))
    assert_relevance(explain(IDS, target=span(2, 5)), expected, 1e-8)
    both = explain(IDS, target=each([span(2, 5), span(1, 2)]))
    assert_relevance(both[0], expected, 1e-8)
    assert_relevance(both[1], explain(IDS, target=(0, IDS[:, 1])), 1e-8)


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (3, 3), (4, 7), (-2, -1)])
def test_spans_outside_of_the_input(start: int, stop: int) -> None:
    explain = fxlrp.compile(language_model(), "attnlrp", example_inputs=IDS)
    with pytest.raises(InputError, match="must be within the tokens 1 to 6"):
        explain(IDS, target=span(start, stop))


def test_a_span_needs_a_language_model() -> None:
    with pytest.raises(InputError, match="needs a language model"):
        fxlrp.compile(skips())(X, target=span(1, 2))
    with pytest.raises(InputError, match="from one position to another"):
        span(1.5, 2)  # type: ignore[arg-type]


def test_a_region_of_a_segmentation() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1)).double().eval()
    explain = fxlrp.compile(model, "epsilon_plus")
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[1:3, 2:5] = True
    expected = explain(X, target=(3, slice(1, 3), slice(2, 5)))
    assert_relevance(explain(X, target=region(3, mask)), expected, 1e-12)
    assert_relevance(explain(X, target=region(3, mask.expand(2, 6, 6))), expected, 1e-12)
    others = torch.stack([mask, ~mask])
    found = explain(X, target=region([3, 1], others))
    first, second = explain(X[:1], target=region(3, mask)), explain(X[1:], target=region(1, ~mask))
    assert_relevance(found, torch.cat([first, second]), 1e-10)


@pytest.mark.parametrize(
    ("mask", "message"),
    [(torch.ones(6, 6), "must be a boolean tensor"), (torch.ones(5, 6, dtype=torch.bool), "does not fit an output")],
)
def test_masks_that_do_not_fit(mask: Tensor, message: str) -> None:
    model = nn.Conv2d(2, 4, 1).double().eval()
    with pytest.raises(InputError, match=message):
        fxlrp.compile(model)(X, target=region(1, mask))


@pytest.mark.parametrize("target", [contrast(7), contrast(0, 9), contrast("one")])
def test_contrasts_that_do_not_fit(target: Any) -> None:
    with pytest.raises(InputError):
        fxlrp.compile(skips())(X, target=target)

"""TabNet: its masks are projections on the simplex, and it is explained at any batch."""

from __future__ import annotations

import pytest
import torch

import fxlrp
from fxlrp.survey.measure import measure
from fxlrp.survey.table_network import TableNetwork, sparsemax
from oracles import random


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    x = random(20, 5)
    p = sparsemax(x)
    assert float(p.min()) == 0
    torch.testing.assert_close(p.sum(-1), torch.ones(20, dtype=p.dtype))
    # The projection p is the point for which (x - p) . (q - p) <= 0 for every corner q of the simplex.
    towards = ((x - p)[:, None] * (torch.eye(5, dtype=p.dtype) - p[:, None])).sum(-1)
    assert float(towards.max()) < 1e-12


@pytest.mark.slow
def test_relevance_is_conserved() -> None:
    result = measure("others:tabnet")
    assert result.works, result


@pytest.mark.slow
def test_any_batch_although_the_parts_of_the_batch_are_normalized_one_by_one() -> None:
    model = TableNetwork().double().eval()
    explain = fxlrp.compile(model, "epsilon", example_inputs=random(4, 6))
    x = random(5, 6)
    pairs = torch.cat([explain(part, target=1) for part in x.split(2)])
    torch.testing.assert_close(explain(x, target=1), pairs)

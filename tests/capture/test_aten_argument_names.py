"""ATen's names of arguments differ from those of the functions of torch; export gives the names of ATen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fxlrp
from fxlrp import rules
from helpers import LRP0
from oracles import One, assert_relevance, random

SQUARE = 3 * torch.eye(3, dtype=torch.float64) + random(3, 3, seed=4) / 2
LOWER = SQUARE.tril()

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "cholesky_solve": lambda x: torch.cholesky_solve(x, LOWER, True),
    "linalg_tensorsolve": lambda x: torch.linalg.tensorsolve(SQUARE, x[0, :, 0]).expand(2, 3),
    "ormqr": lambda x: torch.ormqr(x, x[..., 0], x, True, True),
}


@pytest.mark.parametrize("name", CALLS)
def test_both_front_ends_know_the_operation(name: str) -> None:
    x = random(2, 3, 3) + 3 * torch.eye(3, dtype=torch.float64)
    model = One(lambda x: CALLS[name](x).flatten(1)).eval()
    symbolic, exported = (
        fxlrp.compile(model, [(name, rules.Gradient())], example_inputs=x, capture=capture)
        for capture in ("symbolic", "export")
    )
    assert_relevance(exported(x, target=1), symbolic(x, target=1), 1e-10)


@pytest.mark.parametrize(
    "options",
    [{}, {"reduction": "none"}, {"reduction": "sum", "ignore_index": 2}, {"label_smoothing": 0.1}],
    ids=["mean", "none", "sum", "smoothed"],
)
def test_cross_entropy_in_a_model(options: dict[str, Any]) -> None:
    """ATen calls it cross_entropy_loss, with a number as its reduction."""
    target = torch.tensor([1, 2, 0])
    model = One(lambda x: F.cross_entropy(x, target, **options).reshape(-1, 1)).eval()
    x = random(3, 4)
    symbolic, exported = (
        fxlrp.compile(model, LRP0, example_inputs=x, capture=capture) for capture in ("symbolic", "export")
    )
    assert_relevance(exported(x, target=0), symbolic(x, target=0), 1e-10)

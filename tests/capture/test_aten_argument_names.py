"""ATen's names of arguments differ from those of the functions of torch; export gives the names of ATen."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import fxlrp
from fxlrp import rules
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

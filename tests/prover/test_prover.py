"""What must hold of every model, on random ones; ``make prove`` tries many more."""

from __future__ import annotations

from collections import Counter

import pytest

from prover.checks import CHECKS
from prover.search import violation

EXAMPLES = 20


@pytest.mark.parametrize("name", CHECKS)
def test_random_models(name: str) -> None:
    problem = violation(name, max(1, EXAMPLES // CHECKS[name].cost), 0, Counter(), steps=3, rows=3)
    assert problem is None, problem

"""What must hold of every model, on random ones; ``make prove`` tries many more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import data

from prover.checks import CHECKS
from prover.models import programs

EXAMPLES = 40


@pytest.mark.parametrize("name", CHECKS)
def test_random_models(name: str) -> None:
    check = CHECKS[name]

    @settings(
        max_examples=max(1, EXAMPLES // check.cost),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data())
    def holds(drawn: Any) -> None:
        check.run(drawn.draw(programs(fits=check.fits)))

    holds()

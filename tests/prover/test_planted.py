"""Faults that were found by hand, planted again: the prover finds them."""

from __future__ import annotations

import pytest

from prover.planted import FAULTS, find


@pytest.mark.repeats
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str) -> None:
    assert find(fault) is not None

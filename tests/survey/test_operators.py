"""PyTorch's operator database: every differentiable operator is explained by finite relevance, or refused by fxlrp."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from fxlrp import presets
from fxlrp.survey.operators import Entry, entries, explained

# Statistics that share relevance by squared deviations, which is their own rule, and casts that round.
NOT_GRADIENT_TIMES_INPUT = {"std", "std_unbiased", "std_mean", "std_mean_unbiased", "half", "bfloat16", "chalf"}


@functools.cache
def database() -> Mapping[str, Entry]:
    """The entries by name. Loading them takes seconds, so they are no parameters of tests.

    PyTorch looks at the whole call stack for each entry. That of a thread is short, and that of pytest is not.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: {entry.name: entry for entry in entries()}).result()


@pytest.mark.slow
def test_the_database_is_complete() -> None:
    assert len(database()) > 500
    assert {"index_add", "nn_functional_grid_sample", "fft_rfft", "linalg_det", "std"} <= database().keys()


# ``fxlrp survey operators`` tries all of them.
PARTS = 30


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_operators(part: int) -> None:
    """A part of every third operator."""
    for name in list(database())[3 * part :: 3 * PARTS]:
        result = explained(database()[name], presets.epsilon(1e-12))
        assert result.state in ("explained", "refused"), f"{name}: {result.problem}"
        if result.state == "explained" and result.homogeneous and name not in NOT_GRADIENT_TIMES_INPUT:
            assert result.is_gradient_times_input, f"{name}: {result.deviation}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linalg_det", "linalg_inv", "linalg_svd", "matrix_exp", "cholesky", "qr"])
def test_matrix_functions_have_no_rule_but_the_gradient(name: str) -> None:
    assert explained(database()[name], presets.epsilon(1e-12)).state == "refused"
    assert explained(database()[name], presets.gradient()).state == "explained"

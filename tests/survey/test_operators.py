"""PyTorch's operator database: every differentiable operator is explained by finite relevance, or refused by fxlrp."""

from __future__ import annotations

import pytest

from fxlrp import presets
from fxlrp.survey.operators import entries, explained

ENTRIES = {entry.name: entry for entry in entries()}

# Statistics that share relevance by squared deviations, which is their own rule, and casts that round.
NOT_GRADIENT_TIMES_INPUT = {"std", "std_unbiased", "std_mean", "std_mean_unbiased", "half", "bfloat16", "chalf"}


def test_the_database_is_complete() -> None:
    assert len(ENTRIES) > 500
    assert {"index_add", "nn_functional_grid_sample", "fft_rfft", "linalg_det", "std"} <= ENTRIES.keys()


# ``fxlrp survey operators`` tries all of them.
SOME = list(ENTRIES)[::3]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_operators(name: str) -> None:
    entry = ENTRIES[name]
    result = explained(entry, presets.epsilon(1e-12))
    assert result.state in ("explained", "refused"), result.problem
    if result.state == "explained" and result.homogeneous and entry.name not in NOT_GRADIENT_TIMES_INPUT:
        assert result.is_gradient_times_input, result.deviation


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linalg_det", "linalg_inv", "linalg_svd", "matrix_exp", "cholesky", "qr"])
def test_matrix_functions_have_no_rule_but_the_gradient(name: str) -> None:
    assert explained(ENTRIES[name], presets.epsilon(1e-12)).state == "refused"
    assert explained(ENTRIES[name], presets.gradient()).state == "explained"

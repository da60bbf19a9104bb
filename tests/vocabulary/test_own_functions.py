"""Functions of fxlrp that stand for functions of torch compute the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fxlrp import functions
from fxlrp.vocabulary import CANONICAL
from operation_samples import call, samples


def scattered(input: Tensor, dim: int, index: Tensor, src: Any, value: Any, reduce: str | None) -> Tensor:
    source = value if src is None else src
    return torch.scatter(input, dim, index, source, **({} if reduce is None else {"reduce": reduce}))  # type: ignore[call-overload]


def cross_entropy(input: Tensor, target: Tensor, **given: Any) -> Tensor:
    """Of log-probabilities it is the loss itself, as their softmax does not change them."""
    return torch.nn.functional.cross_entropy(input.log_softmax(1), target, **given)


def matrix_norm(A: Tensor, ord: Any, dim: tuple[int, int] = (-2, -1), keepdim: bool = False, **_: Any) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(A, ord, dim, keepdim)
    return norm


THEIRS: Mapping[str, Callable[..., Tensor]] = {
    "istft": torch.istft,
    "scatter": scattered,
    "power": torch.pow,
    "affine_grid": torch.nn.functional.affine_grid,
    "cov": torch.cov,
    "linalg_matrix_norm": matrix_norm,
    "corrcoef": torch.corrcoef,
    "linalg_cond": lambda A, p: torch.linalg.cond(A, p),
}


@pytest.mark.parametrize("name", THEIRS)
def test_they_compute_what_torch_computes(name: str) -> None:
    operation, count = CANONICAL.operations[name], 0
    for sample in samples(operation):
        with warnings.catch_warnings():
            # Torch deprecates one of the arguments, and notes that it pads.
            warnings.simplefilter("ignore")
            expected = THEIRS[name](**sample.arguments)
        torch.testing.assert_close(call(operation, sample.arguments), expected, rtol=1e-12, atol=1e-12)
        count += 1
    assert count


def test_expected_log_loss_is_the_cross_entropy_of_log_probabilities() -> None:
    for sample in samples(CANONICAL.operations["cross_entropy"]):
        given: Mapping[str, Any] = {
            name: value for name, value in sample.arguments.items() if name not in ("input", "size_average", "reduce")
        }
        x = sample.arguments["input"].log_softmax(1)
        torch.testing.assert_close(functions.expected_log_loss(x, **given), cross_entropy(x, **given))


@pytest.mark.parametrize("p", (1, -1, "fro"))
def test_the_condition_number_of_a_singular_matrix_is_infinite(p: float | str) -> None:
    matrices = torch.stack([torch.ones(3, 3), torch.eye(3)]).double()
    torch.testing.assert_close(functions.condition_number(matrices, p), torch.linalg.cond(matrices, p))

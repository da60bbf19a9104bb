"""The preset ``gradient`` against autograd, for every operation with operands, and however they lie in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import fxlrp
from derived_calls import UNWRITTEN, Call, Case, Dense, positions_of_operands
from fxlrp import presets
from helpers import some_of_each
from operation_samples import settings, strided, transposed
from operation_settings import SAMPLED
from oracles import assert_relevance, random

# Symbolic tracing cannot follow fxlrp's own functions, or the value does not depend on the operands.
NOT_CALLED = frozenset(
    "attention_mask padding_mask both_masks mask_scores sum_bags expect_dims initial_state zeros_like ones_like "
    "empty_like full_like new_zeros new_ones new_empty new_full".split()
)
# Autograd stops at detach, and relevance does not. Torch looks at values to differentiate two others, and eigenvectors
# are defined up to their phase.
OTHERWISE = frozenset(["detach", "ctc_loss", "linalg_lstsq", "linalg_eig"])
# Casts go through fewer digits on the way.
TOLERANCES = {
    **dict.fromkeys(("half", "bfloat16", "chalf"), 1e-2),
    **dict.fromkeys(("type", "to", "float", "cfloat"), 1e-6),
}


def calls() -> Iterator[Any]:
    for name, operation in SAMPLED.items():
        if name in (*UNWRITTEN, *NOT_CALLED, *OTHERWISE):
            continue
        for setting in settings(operation):
            positions = positions_of_operands(operation, setting)
            # A model may not contain special values, and torch does not differentiate a scatter that adds.
            is_left_out = any(place.special for place in setting.places) or setting.arguments.get("reduce") == "add"
            if positions and not is_left_out:
                case = Case(operation, setting, positions)
                yield pytest.param(case, id=str(case))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(some_of_each(6, calls())))
def test_the_gradient(case: Case) -> None:
    """``x * J^T(R / z)``, where no part of ``z`` is zero but for rounding."""
    model = case.model()
    inputs = model.inputs()
    if not (model.picked and all(each.is_floating_point() for each in inputs)):
        pytest.skip("the operation has no derivative")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = Dense.of(model, inputs)
    seed = random(*dense.z.shape, seed=5)
    seed = seed.masked_fill(dense.z.abs() < 1e-9 * dense.z.abs().nan_to_num(0, 0, 0).max(), 0)
    expected = dense.in_proportion(seed, dense.z)
    if not all(bool(each.isfinite().all()) for each in expected):
        pytest.skip("the derivative is infinite at zero")
    explain = fxlrp.compile(model, presets.gradient(), example_inputs=inputs, capture="symbolic")
    # The elements that the operation reads may be others in other memory.
    layouts = (torch.clone,) if case.operation.name.startswith("as_strided") else (torch.clone, transposed, strided)
    for layout in layouts:
        given = tuple(map(layout, inputs))
        if takes(model, given):
            found = tree_leaves(explain(*given, seed=seed))
            assert len(found) == len(expected)
            for each, other in zip(found, expected, strict=True):
                assert_relevance(each, other, TOLERANCES.get(case.operation.name, 1e-9))


def takes(model: Call, inputs: tuple[Tensor, ...]) -> bool:
    """Whether an operation that returns a view does so for inputs that lie in memory like these."""
    try:
        model(*inputs)
    except RuntimeError as error:
        assert "view" in str(error) or "stride" in str(error), error
        return False
    return True


def test_what_is_left_out_exists() -> None:
    assert SAMPLED.keys() >= NOT_CALLED | OTHERWISE

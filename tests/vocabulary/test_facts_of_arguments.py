"""What rows state about arguments beside the operands: what is read for its form only, and what is added."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fxlrp.operation import Operation
from operation_samples import call, samples, tensors_of
from operation_settings import SAMPLED

OPERATIONS = SAMPLED.values()


@pytest.mark.parametrize("name", [each.name for each in OPERATIONS if each.reads_form])
def test_arguments_that_are_read_for_their_form_may_have_any_values(name: str) -> None:
    operation, claims = SAMPLED[name], 0
    for sample in samples(operation):
        others = dict(sample.arguments)
        for each in operation.reads_form:
            others[each] = tree_map_only(Tensor, torch.zeros_like, others[each])
            claims += any(isinstance(leaf, Tensor) for leaf in tree_leaves(sample.arguments[each]))
        for one, other in zip(_results(operation, sample.arguments), _results(operation, others), strict=True):
            assert torch.equal(one, other), sample.name
    assert claims or name == "to", "no sample has a tensor in that place"


@pytest.mark.parametrize("name", [each.name for each in OPERATIONS if each.shifts is not None])
def test_without_what_is_added_the_result_is_zero_where_the_operands_are(name: str) -> None:
    operation, claims = SAMPLED[name], 0
    for sample in samples(operation):
        assert operation.shifts is not None
        # A tensor is added if it is this object; a number if it is the argument "value".
        added = [id(each) for each in operation.shifts(sample.arguments)]
        operands = [id(leaf) for name in operation.operands for leaf in tree_leaves(sample.arguments[name])]
        zero = functools.partial(_zero, {*added, *operands})
        zeroed = {key: tree_map_only(Tensor, zero, value) for key, value in sample.arguments.items()}
        numbers = {"value": 0.0} if "value" in operation.parameters else {}
        for result in _results(operation, {**zeroed, **numbers}):
            if result.is_floating_point():
                assert not result.any(), sample.name
        claims += bool(added)
    assert claims, "no sample adds anything"


def _zero(chosen: set[int], value: Tensor) -> Tensor:
    return torch.zeros_like(value) if id(value) in chosen else value


def _results(operation: Operation, arguments: Any) -> list[Tensor]:
    return list(tensors_of(call(operation, arguments)))

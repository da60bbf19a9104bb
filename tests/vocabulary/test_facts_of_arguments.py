"""What rows state about arguments beside the operands: what is read for its form only, and what is added."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fxlrp.operation import Operation
from fxlrp.relevance import implementation
from fxlrp.relevance.step import Absorber
from fxlrp.rules import Epsilon
from operation_samples import call, samples, tensors_of
from operation_settings import SAMPLED

OPERATIONS = SAMPLED.values()


def _adds_operands(operation: Operation) -> bool:
    """Whether LRP-epsilon takes the operands that do not depend on the input for what is added."""
    how = implementation(operation, Epsilon())
    return how is not None and how.absorber is Absorber.OPERANDS


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
        # A tensor is added if it is this object; a number if it is an argument with one of these names.
        added = [id(each) for each in operation.shifts(sample.arguments)]
        numbers = {name: 0.0 for name in ("value", "initial") if sample.arguments.get(name) is not None}
        assert _is_zero_at_zero(operation, {**sample.arguments, **numbers}, {*added}), sample.name
        claims += bool(added)
    assert claims, "no sample adds anything"


@pytest.mark.parametrize("name", [each.name for each in OPERATIONS if each.shifts is None and _adds_operands(each)])
def test_where_nothing_else_is_added_the_result_is_zero_where_the_operands_are(name: str) -> None:
    operation = SAMPLED[name]
    for sample in samples(operation):
        assert _is_zero_at_zero(operation, sample.arguments, set()), sample.name


def _is_zero_at_zero(operation: Operation, arguments: Mapping[str, Any], others: set[int]) -> bool:
    operands = {id(leaf) for name in operation.operands for leaf in tree_leaves(arguments[name])}
    zero = functools.partial(_zero, operands | others)
    zeroed = {key: tree_map_only(Tensor, zero, value) for key, value in arguments.items()}
    zeroed.update({name: 0.0 for name in operation.operands if isinstance(arguments[name], int | float)})
    results = _results(operation, zeroed)
    return not any(bool(each.any()) for each in results if each.is_floating_point() or each.is_complex())


def _zero(chosen: set[int], value: Tensor) -> Tensor:
    return torch.zeros_like(value) if id(value) in chosen else value


def _results(operation: Operation, arguments: Any) -> list[Tensor]:
    return list(tensors_of(call(operation, arguments)))

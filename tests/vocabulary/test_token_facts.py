"""The facts about integers that rows state: what maps tokens one to one, and what reads only sizes and types."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx

from fxlrp.operation import REQUIRED, Operation
from fxlrp.vocabulary import CANONICAL
from operation_samples import call, samples, tensors_of

OPERATIONS = CANONICAL.operations
TOKENS = torch.tensor([[0, 3, 1], [2, 2, 6]])
CONSTANT = torch.tensor([4, 0, 1])

# Calls by the name of the operation: the arguments that follow the tokens.
MAPPED: dict[str, list[dict[str, Any]]] = {
    **{name: [{}] for name in ("long", "int", "short", "char", "byte")},
    "to": [dict(args=(torch.int32,)), dict(args=("cpu",)), dict(kwargs={"dtype": torch.int16})],
    "add": [dict(other=2), dict(other=CONSTANT)],
    "sub": [dict(other=2), dict(other=CONSTANT)],
    "mul": [dict(other=2), dict(other=-1)],
    "clamp": [dict(min=0, max=9), dict(min=-1)],
    "clamp_min": [dict(min=0)],
    "clamp_max": [dict(max=6)],
    "where": [dict(condition=TOKENS >= 0, other=-1)],
    "masked_fill": [dict(mask=TOKENS < 0, value=-1)],
}
NOT_MAPPED: dict[str, list[dict[str, Any]]] = {
    "to": [dict(args=(torch.bool,)), dict(kwargs={"dtype": torch.bool})],
    "mul": [dict(other=0), dict(other=CONSTANT)],
}


def arguments_of(operation: Operation, given: dict[str, Any], tokens: Any) -> dict[str, Any]:
    defaults = {name: value for name, value in operation.parameters.items() if value is not REQUIRED}
    return {**dict.fromkeys(operation.parameters), **defaults, "input": tokens, **given}


def tells(operation: Operation, given: dict[str, Any]) -> bool:
    """What the row states, with constants that are known nodes."""
    graph = fx.Graph()
    tokens, constant = graph.placeholder("tokens"), graph.placeholder("constant")
    nodes = {name: constant if isinstance(value, Tensor) else value for name, value in given.items()}
    return operation.tells(operation.maps_tokens, arguments_of(operation, nodes, tokens), {constant})


def test_every_row_that_maps_tokens_is_tried() -> None:
    assert MAPPED.keys() == {name for name, each in OPERATIONS.items() if each.maps_tokens is not None}


@pytest.mark.parametrize("name", MAPPED)
def test_different_tokens_have_different_results_and_equal_ones_equal(name: str) -> None:
    operation = OPERATIONS[name]
    for given in MAPPED[name]:
        assert tells(operation, given), given
        results = []
        for value in range(7):
            tokens = TOKENS.clone()
            tokens[0, 1] = value
            result = call(operation, arguments_of(operation, given, tokens))
            assert result.shape == tokens.shape
            # No other element changes.
            rest = call(operation, arguments_of(operation, given, TOKENS))
            rest[0, 1] = result[0, 1]
            assert torch.equal(rest, result)
            results.append(int(result[0, 1]))
        assert len(set(results)) == 7, given


@pytest.mark.parametrize("name", NOT_MAPPED)
def test_calls_that_map_several_tokens_to_one(name: str) -> None:
    for given in NOT_MAPPED[name]:
        assert not tells(OPERATIONS[name], given), given


def test_two_operands_that_vary() -> None:
    graph = fx.Graph()
    one, other = graph.placeholder("one"), graph.placeholder("other")
    for name in ("add", "sub", "mul"):
        operation = OPERATIONS[name]
        arguments = arguments_of(operation, {"other": other}, one)
        assert not operation.tells(operation.maps_tokens, arguments)
        assert not operation.tells(operation.maps_tokens, {**arguments, "other": one})


@pytest.mark.parametrize("name", [name for name, each in OPERATIONS.items() if each.ignores_values])
def test_what_ignores_values_is_the_same_for_other_values(name: str) -> None:
    operation = OPERATIONS[name]
    if name.endswith("empty") or name == "empty_like":
        pytest.skip("its values are those of the memory")
    for sample in samples(operation):
        changed = {
            key: value + 1 if isinstance(value, Tensor) and value.is_floating_point() else value
            for key, value in sample.arguments.items()
        }
        one, other = (call(operation, arguments) for arguments in (sample.arguments, changed))
        if tensors_of(one):
            assert all(torch.equal(*pair) for pair in zip(tensors_of(one), tensors_of(other), strict=True))
        else:
            assert one == other

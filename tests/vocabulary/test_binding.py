"""Binding the arguments of a call to the parameters of its operation, and writing the call again."""

from typing import Any

import pytest
import torch
from torch import fx

from fxlrp.errors import InternalError
from fxlrp.operation import REQUIRED, Family, Operation
from fxlrp.vocabulary import CANONICAL
from fxlrp.vocabulary.lookup import Vocabulary
from oracles import Two

OPERATIONS = CANONICAL.operations


class Value:
    """An argument that equals nothing but itself."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


IGNORED = {"inplace", "_stacklevel", "memory_format", "non_blocking", "copy"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_bind_and_call_are_inverse(name: str) -> None:
    operation = OPERATIONS[name]
    full: dict[str, Any] = {parameter: Value(parameter) for parameter in operation.parameters}
    required = {p: v for p, v in full.items() if operation.parameters[p] is REQUIRED}
    for given in (full, required):
        if operation.variadic in given:
            given = {**given, operation.variadic: (1, 2)}
        bound = operation.bind((), given)
        assert list(bound) == list(operation.parameters)
        args, kwargs = operation.call(bound)
        again = operation.bind(args, kwargs)
        for parameter, value in bound.items():
            if parameter not in IGNORED:
                assert again[parameter] is value or again[parameter] == value, parameter
        # The shortest form: what is required by position, the rest by name and only where it is not the default.
        assert len(args) == len(required)
        assert not [p for p in kwargs if kwargs[p] is operation.parameters[p]]


@pytest.mark.parametrize("name", [n for n, op in OPERATIONS.items() if op.variadic is None and not op.keeps_arguments])
def test_positions_and_names_mean_the_same(name: str) -> None:
    operation = OPERATIONS[name]
    values = {parameter: Value(parameter) for parameter in operation.parameters}
    for cut in range(len(values) + 1):
        items = list(values.items())
        assert operation.bind(tuple(v for _, v in items[:cut]), dict(items[cut:])) == values


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("reshape", ("x", 2, 3), (2, 3)),
        ("reshape", ("x", (2, 3)), (2, 3)),
        ("reshape", ("x", [2, 3]), [2, 3]),
        ("reshape", ("x", -1), (-1,)),
        ("permute", ("x", 0, 2, 1), (0, 2, 1)),
        ("flip", ("x", 0), (0,)),
        ("expand", ("x", -1, 4), (-1, 4)),
        ("repeat", ("x", 2), (2,)),
        ("new_zeros", ("x", 3, 4), (3, 4)),
    ],
)
def test_variadic_arguments(name: str, args: tuple[Any, ...], expected: Any) -> None:
    operation = OPERATIONS[name]
    assert operation.variadic is not None
    assert operation.bind(args, {})[operation.variadic] == expected


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "message"),
    [
        ("relu", (), {}, "needs the argument 'input'"),
        ("relu", (1, False, 3), {}, "takes 2 arguments, not 3"),
        ("relu", (1,), {"slope": 2}, "does not take.*slope"),
        ("add", (1, 2), {"other": 3}, "does not take.*other"),
        ("cat", (), {"dim": 1}, "needs the argument 'tensors'"),
    ],
)
def test_calls_that_do_not_fit(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        OPERATIONS[name].bind(args, kwargs)


def test_numpys_names_of_parameters() -> None:
    assert OPERATIONS["sum"].bind((), {"x": 1, "axis": 2}) == {"input": 1, "dim": 2, "keepdim": False, "dtype": None}
    assert OPERATIONS["relu"].bind((), {"self": 1})["input"] == 1
    assert OPERATIONS["cat"].bind(([1],), {"axis": -1})["dim"] == -1


def test_a_default_of_another_type_is_not_left_out() -> None:
    """0 and False, 1 and True are equal in Python, and not the same argument."""
    operation = OPERATIONS["mean"]
    _, kwargs = operation.call(operation.bind(("x", 0), {}))
    assert kwargs == {"dim": 0}
    operation = OPERATIONS["max_pool2d"]
    _, kwargs = operation.call(operation.bind(("x", 2), {"padding": False, "dilation": 1}))
    assert kwargs == {"padding": False}


def test_operands_of_a_list_count_one_by_one() -> None:
    graph = fx.symbolic_trace(Two(lambda a, b: torch.cat([a, b, a], 1))).graph
    (cat,) = (node for node in graph.nodes if node.op == "call_function")
    a, b = (node for node in graph.nodes if node.op == "placeholder")
    assert OPERATIONS["cat"].operands_of(cat) == (a, b, a)


def test_a_vocabulary_holds_every_operation_once() -> None:
    operation = Operation("twice", Family.SHAPE, torch.flip, {"input": REQUIRED})
    with pytest.raises(InternalError, match="twice"):
        Vocabulary([operation, operation])


def test_extend_takes_precedence() -> None:
    mine = Operation("relu", Family.CUSTOM, torch.relu, {"input": REQUIRED})
    extended = CANONICAL.extend([mine])
    found = extended.spelling(torch.relu)
    assert found is not None and found.operation is mine
    assert len(extended.operations) == len(OPERATIONS)
    unchanged = CANONICAL.spelling(torch.relu)
    assert unchanged is not None and unchanged.operation is OPERATIONS["relu"]


def test_no_operation_hides_another() -> None:
    """What an operation calls means that operation."""
    for operation in OPERATIONS.values():
        found = CANONICAL.spelling(operation.function)
        assert found is not None
        if operation.family is not Family.IDENTITY:
            assert found.operation is operation, operation.name
            assert not found.inplace

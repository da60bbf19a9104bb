"""Values of every kind, by name: an argument of a public function may be any of them."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn

TRAP = "fxlrp_trap"
"""A module that nothing may import because its name stands in an argument."""


class Mine(Exception):
    """An error of the caller's own code."""


class Color(enum.Enum):
    RED = 1


class Hostile:
    """An object that answers no question about itself."""

    def __bool__(self) -> bool:
        raise Mine("bool")

    def __len__(self) -> int:
        raise Mine("len")

    def __eq__(self, other: object) -> bool:
        raise Mine("eq")

    def __hash__(self) -> int:
        raise Mine("hash")


class Unprintable:
    """An object whose ``repr`` fails."""

    def __repr__(self) -> str:
        raise Mine("repr")


class Tagged(Tensor):
    """A tensor of a class of its own."""


def _raises(*args: Any, **kwargs: Any) -> Any:
    raise Mine("called")


def identity(value: Any) -> Any:
    return value


def _itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(3000):
        value = [value]
    return value


def _endless() -> Iterator[int]:
    while True:
        yield 0


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


_NUMBERS: dict[str, Any] = {
    **{"None": None, "True": True, "False": False},
    **{str(number): number for number in (0, 1, 2, -1, -7, 2**31, 2**63, -(2**63) - 1)},
    **{"10**400": 10**400, "0.0": 0.0, "0.5": 0.5, "1.0": 1.0, "-1.0": -1.0, "1e308": 1e308, "5e-324": 5e-324},
    **{"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"), "1j": 1j},
    **{"decimal": decimal.Decimal("0.5"), "fraction": fractions.Fraction(1, 2), "enum": Color.RED},
    **{"numpy.float32": numpy.float32(0.5), "numpy.nan": numpy.float64("nan"), "numpy.int64": numpy.int64(1)},
    **{"numpy.bool": numpy.bool_(True), "numpy.int8": numpy.int8(-1), "numpy.uint64": numpy.uint64(2**64 - 1)},
    **{"numpy.complex": numpy.complex64(1j), "numpy.str": numpy.str_("x"), "numpy.datetime": numpy.datetime64("2020")},
}

_TEXTS: dict[str, Any] = {
    **{"empty": "", "x": "x", "name of a layer": "0", "glob": "*", "bracket": "[", "dot": ".", "dots": "a..b"},
    **{"zero byte": "\x00", "surrogate": "\ud800", "long": "x" * 100_000, "dunder": "__class__", "bytes": b"x"},
    **{"trap": TRAP, "path of the trap": f"{TRAP}.Trap", "format": "{0.__class__}", "percent": "%s%n"},
    **{"path": pathlib.Path("x"), "bytearray": bytearray(b"x"), "memoryview": memoryview(b"x")},
}

_CONTAINERS: dict[str, Callable[[], Any]] = {
    **{"[]": list, "()": tuple, "{}": dict, "set()": set, "frozenset": lambda: frozenset({1})},
    **{"{1}": lambda: {1}, "[None]": lambda: [None], "[[]]": lambda: [[]], "(None,)": lambda: (None,)},
    **{"[0]": lambda: [0], "(0,)": lambda: (0,), "[0, 1]": lambda: [0, 1], "(0, 1)": lambda: (0, 1)},
    **{"[True]": lambda: [True], "[nan]": lambda: [float("nan")], "[2**63]": lambda: [2**63], "['x']": lambda: ["x"]},
    **{"[[0], [0, 1]]": lambda: [[0], [0, 1]], "[-9]": lambda: [-9], "[...]": lambda: [...], "(...,)": lambda: (...,)},
    **{"{'x': 1}": lambda: {"x": 1}, "{None: None}": lambda: {None: None}, "{1: 2}": lambda: {1: 2}},
    **{"{'0': 0}": lambda: {"0": 0}, "[{}]": lambda: [{}], "[{'0': 0}]": lambda: [{"0": 0}]},
    **{"itself": _itself, "deep": _deep, "range": lambda: range(2), "endless": _endless},
    **{
        "generator": lambda: (each for each in "ab"),
        "iterator": lambda: iter([0, 1]),
        "zip": lambda: zip([1], [2], strict=True),
    },
    **{"map of names": lambda: collections.OrderedDict(x=0), "user list": lambda: collections.UserList([0])},
    **{"pairs": lambda: [("0", None)], "triple": lambda: [("0", 1, 2)], "strings": lambda: "ab cd".split()},
}

_OBJECTS: dict[str, Callable[[], Any]] = {
    **{"object": object, "type": lambda: object, "class": lambda: nn.Linear, "module": lambda: nn.Linear(4, 3)},
    **{"lambda": lambda: lambda *args: None, "raises": lambda: _raises, "identity": lambda: identity},
    **{"hostile": Hostile, "unprintable": Unprintable, "ellipsis": lambda: ...},
    **{"not implemented": lambda: NotImplemented, "slice": lambda: slice(0, 1), "slice of text": lambda: slice("a")},
    **{"slice by zero": lambda: slice(None, None, 0), "slice of all": lambda: slice(None)},
    **{"dtype": lambda: torch.float32, "device": lambda: torch.device("cpu"), "size": lambda: torch.Size([2, 4])},
    **{"date": lambda: datetime.date(2020, 1, 1), "error": lambda: ValueError("x"), "python": lambda: pathlib},
    **{
        "generator of torch": torch.Generator,
        "parameter list": lambda: nn.ParameterList([nn.Parameter(torch.ones(1))]),
    },
}


def _nested() -> Tensor:
    return torch.nested.nested_tensor([torch.rand(4), torch.rand(2)])


_TENSORS: dict[str, Callable[[], Any]] = {
    **{"tensor": lambda: torch.rand(2, 4), "float64": lambda: torch.rand(2, 4).double()},
    **{"float16": lambda: torch.rand(2, 4).half(), "bfloat16": lambda: torch.rand(2, 4).bfloat16()},
    **{"float8": lambda: torch.rand(2, 4).to(torch.float8_e4m3fn), "int64": lambda: torch.ones(2, 4).long()},
    **{"uint8": lambda: torch.ones(2, 4, dtype=torch.uint8), "bool": lambda: torch.ones(2, 4, dtype=torch.bool)},
    **{"uint16": lambda: torch.ones(2, 4).to(torch.uint16), "complex": lambda: torch.ones(2, 4) * 1j},
    **{"index": lambda: torch.tensor([0, 1]), "index out of range": lambda: torch.tensor([0, 99])},
    **{
        "number": lambda: torch.tensor(1),
        "real number": lambda: torch.tensor(0.5),
        "NaN": lambda: torch.tensor(torch.nan),
    },
    **{
        "batch of 0": lambda: torch.rand(0, 4),
        "features of 0": lambda: torch.rand(2, 0),
        "size of 0": lambda: torch.rand(0),
    },
    **{"vector": lambda: torch.rand(4), "image": lambda: torch.rand(2, 3, 4, 4), "column": lambda: torch.rand(2, 1)},
    **{"other features": lambda: torch.rand(2, 5), "other batch": lambda: torch.rand(3, 4)},
    **{"many dimensions": lambda: torch.rand(*[1] * 30), "meta": lambda: torch.rand(2, 4, device="meta")},
    **{"expanded": lambda: torch.zeros(1).expand(2**31, 2**31), "sparse": lambda: torch.rand(2, 4).to_sparse()},
    **{
        "sparse rows": lambda: torch.rand(2, 4).to_sparse_csr(),
        "nested": _nested,
        "all NaN": lambda: torch.rand(2, 4) * torch.nan,
    },
    **{"all infinite": lambda: torch.full((2, 4), torch.inf), "tracked": lambda: torch.rand(2, 4, requires_grad=True)},
    **{"parameter": lambda: nn.Parameter(torch.rand(2, 4)), "subclass": lambda: torch.rand(2, 4).as_subclass(Tagged)},
    **{
        "transposed": lambda: torch.rand(4, 2).T,
        "inference": lambda: _inference(),
        "list of tensors": lambda: [torch.rand(2, 4)],
    },
    **{"pair": lambda: (torch.rand(2, 4), torch.rand(2, 4)), "dict": lambda: {"input": torch.rand(2, 4)}},
    **{"array": lambda: numpy.ones((2, 4), dtype=numpy.float32), "array of objects": lambda: numpy.array([None, "x"])},
    **{"array of text": lambda: numpy.array(["a", "b"]), "array of NaN": lambda: numpy.array([numpy.nan])},
    **{"array of integers": lambda: numpy.array([0, 1]), "empty array": lambda: numpy.zeros((0,))},
    **{"flipped": lambda: numpy.ones((2, 4))[::-1]},
    **{"records": lambda: numpy.zeros(2, dtype=[("a", int), ("b", float)])},
}


def _inference() -> Tensor:
    with torch.inference_mode():
        return torch.rand(2, 4)


VALUES: dict[str, Callable[[], Any]] = {
    **{f"number {name}": _constant(value) for name, value in _NUMBERS.items()},
    **{f"text {name}": _constant(value) for name, value in _TEXTS.items()},
    **{f"container {name}": make for name, make in _CONTAINERS.items()},
    **{f"object {name}": make for name, make in _OBJECTS.items()},
    **{f"tensor {name}": make for name, make in _TENSORS.items()},
}
"""The values, by name. Each is made when it is needed, because some can be read only once."""

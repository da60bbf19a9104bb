"""The values of inputs for which a captured graph is valid: the conditions that it looked at have the same results."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from fxlrp.capture.lock import is_compiling
from fxlrp.errors import InputError
from fxlrp.provenance import is_users_file

_PLAIN = (bool, int, float, complex, str, type(None))


class Place(NamedTuple):
    """Stands for a tensor in the arguments of a recorded call."""

    number: int


@dataclass(frozen=True)
class _Source:
    """An input whose values the conditions depend on."""

    position: int
    name: str
    device: torch.device
    place: Place


@dataclass(frozen=True)
class _Step:
    """A recorded call; its result is either tensors, or a number that the model has read."""

    function: Callable[..., Any]
    args: Any
    kwargs: Mapping[str, Any]
    results: tuple[Place, ...] = ()

    def run(self, tensors: Mapping[Place, Tensor]) -> Any:
        """The result for other tensors."""
        args, kwargs = pytree.tree_map_only(
            Place, tensors.__getitem__, (self.args, dict(self.kwargs)), is_leaf=lambda leaf: isinstance(leaf, Place)
        )
        return self.function(*args, **kwargs)


@dataclass(frozen=True)
class _Reading(_Step):
    """A call whose result the model has read."""

    expected: Any = None
    words: str = ""


@dataclass(frozen=True)
class ValueGuard:
    """Repeats the computation of everything that the model has read of its inputs, such as ``mask.any()``.

    Args:
        sources: The inputs.
        steps: The calls, in their order.
    """

    sources: tuple[_Source, ...]
    steps: tuple[_Step, ...]

    @property
    def words(self) -> str:
        """The inputs, and where the model has read a value of them first."""
        names = " and ".join(repr(source.name) for source in self.sources)
        first = next(step.words for step in self.steps if isinstance(step, _Reading))
        return f"{names} (read at {first})"

    def misfit(self, values: Sequence[Tensor]) -> Callable[[], str] | None:
        """Return why the graph is not valid for inputs, to be put into words; None if it is.

        Raises:
            InputError: The explainer is being compiled or exported: then the values are not known.
        """
        if is_compiling():
            raise InputError(
                f"the model reads values of {self.words}, and the program is valid for some of them only, which a "
                "compiled or exported program cannot check: use the explainer itself, or torch.where in the model"
            )
        tensors = {
            source.place: values[source.position].detach().to(source.device, copy=True) for source in self.sources
        }
        with torch.no_grad():
            for step in self.steps:
                result = step.run(tensors)
                if not isinstance(step, _Reading):
                    tensors.update(zip(step.results, tensors_in(result), strict=True))
                elif not _same(result, step.expected):
                    return partial(_other_values, step.words, step.expected, result)
        return None


def _other_values(words: str, expected: Any, result: Any) -> str:
    return f"torch.export captured the model for inputs where the value read at {words} is {expected}, not {result}"


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    both_nan: bool = first != first and second != second
    return both_nan or first == second


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a result, in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def is_plain(value: Any) -> bool:
    """Whether a value consists of numbers, so that two of them can be compared."""
    return all(isinstance(leaf, _PLAIN) for leaf in pytree.tree_leaves(value))


def _users_line() -> str:
    frames = [frame for frame in traceback.extract_stack() if is_users_file(frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else "an unknown line"


PlaceOf: TypeAlias = "Callable[[Tensor], Place]"


@dataclass
class Tape:
    """Records the calls of a capture on tensors whose values are known."""

    _sources: list[_Source] = field(default_factory=list)
    _steps: list[_Step] = field(default_factory=list)
    _count: int = 0
    _length: int = 0

    def clear(self) -> None:
        """Start from the beginning: ``torch.export`` may run a model again."""
        self._sources.clear()
        self._steps.clear()
        self._length = 0

    def source(self, position: int, name: str, value: Tensor) -> Place:
        """Record an input."""
        place = self._place()
        self._sources.append(_Source(position, name, value.device, place))
        return place

    def call(self, function: Any, args: Any, kwargs: Any, place_of: PlaceOf, results: int) -> tuple[Place, ...]:
        """Record a call, and return the places of the tensors in its result."""
        args, kwargs = pytree.tree_map_only(Tensor, place_of, (args, kwargs))
        places = tuple(self._place() for _ in range(results))
        self._steps.append(_Step(function, args, kwargs, places))
        return places

    def read(self, function: Any, args: Any, kwargs: Any, place_of: PlaceOf, expected: Any) -> None:
        """Record that the model has read a number that depends on an input."""
        args, kwargs = pytree.tree_map_only(Tensor, place_of, (args, kwargs))
        self._steps.append(_Reading(function, args, kwargs, (), expected, _users_line()))
        self._length = len(self._steps)

    def guard(self) -> ValueGuard | None:
        """Return the guard of everything that was read; None if that does not depend on inputs."""
        return ValueGuard(tuple(self._sources), tuple(self._steps[: self._length])) if self._length else None

    def _place(self) -> Place:
        self._count += 1
        return Place(self._count)

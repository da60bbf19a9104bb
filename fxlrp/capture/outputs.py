"""Select the output of a model that is explained."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeAlias

from torch import Tensor, fx

from fxlrp import nested
from fxlrp.arguments import shown
from fxlrp.errors import CaptureError, InputError
from fxlrp.nested import Slot

Output: TypeAlias = "int | str | Sequence[int | str] | None"


class Every(enum.Enum):
    """Every output of a model, in any structure."""

    OUTPUT = enum.auto()


EVERY_OUTPUT = Every.OUTPUT
Selected: TypeAlias = "Output | Literal[Every.OUTPUT]"
_STRUCTURE = "structure"
_START = "start"


class StartInside(NamedTuple):
    """A value inside the model at which relevance starts.

    Args:
        name: The path of a module, which means its output, or the name of a node.
        no_output: Why the name is not that of an output of the model.
    """

    name: str
    no_output: str


class Selection:
    """Selects what a capture returns, inside of it: only this has to be understood, not the rest of the outputs.

    It is the output to explain, or the tuple of all tensors that the model returns.
    """

    def __init__(self, output: Selected) -> None:
        """Select ``output``."""
        self._output = output
        self._structure: Any = None
        self._start: StartInside | None = None

    def __call__(self, returned: Any) -> Any:
        """Select from the outputs of the model.

        Raises:
            InputError: The output does not exist.
            CaptureError: The model returns several outputs, and none is selected.
        """
        if not isinstance(self._output, Every):
            try:
                return select_output(returned, self._output)
            except InputError as error:
                if not isinstance(self._output, str):
                    raise
                # It may be the name of a value inside the model, which only the graph knows.
                self._start = StartInside(self._output, str(error))
                return tuple(leaf for _, leaf in nested.leaves(returned) if isinstance(leaf, Tensor | fx.Proxy))
        found: list[Any] = []

        def taken(_: str, leaf: Any) -> Any:
            if isinstance(leaf, bool | int | float | str | None):
                return leaf
            found.append(leaf)
            return Slot(str(len(found) - 1))

        self._structure = nested.replaced(returned, taken)
        return tuple(found)

    def note(self, graph: fx.Graph) -> None:
        """Keep the structure of the outputs with the graph that returns them."""
        graph.output_node().meta[_STRUCTURE] = self._structure
        graph.output_node().meta[_START] = self._start


def start_inside(graph: fx.Graph) -> StartInside | None:
    """The value inside the model that is explained; None if it is an output of the model."""
    found = graph.output_node().meta.get(_START)
    return found if isinstance(found, StartInside) else None


def restored(graph: fx.Graph, outputs: Sequence[Any]) -> Any:
    """The outputs of the model, in its own structure, from those of the graph that returns all of them."""
    named = {str(position): value for position, value in enumerate(outputs)}
    return nested.filled(graph.output_node().meta[_STRUCTURE], named)


def select_output(returned: Any, output: Output) -> Tensor | fx.Proxy:
    """Return the output to explain.

    Args:
        returned: The outputs of the model; during tracing they are proxies.
        output: An index, a key or the name of an attribute, or a sequence of them for a nested output; None for a
            model that returns a single tensor.

    Raises:
        InputError: The output does not exist.
        CaptureError: The model returns several outputs, and none is selected.
    """
    returned = follow(returned, output)
    if isinstance(returned, Tensor | fx.Proxy):
        return returned
    if not _path(output):
        raise CaptureError(
            f"the model returns {_named(returned)}, but only a single tensor can be explained: select it with "
            f"fxlrp.compile(..., output=...), {_choices(returned)}"
        )
    raise InputError(
        f"output={shown(output)} selects {_named(returned)}, which is not a tensor: use {_choices(returned)}"
    )


def follow(returned: Any, output: Output) -> Any:
    """Return the part of the outputs that ``output`` selects."""
    for step in _path(output):
        returned = _pick(returned, step)
    return returned


def checked_output(output: Any) -> Selected:
    """Return the argument ``output=`` of the public functions.

    Raises:
        InputError: It is not an index, a key or a sequence of these.
    """
    if output is None or isinstance(output, Every):
        return output
    steps = tuple(output) if isinstance(output, list | tuple) else (output,)
    found = [each if isinstance(each, str) else _index(each) for each in steps]
    if None in found:
        raise InputError(
            "output must be an index, a key, the name of an attribute or of a value inside the model, or a sequence of "
            f"indices, keys and names, not {shown(output)}"
        )
    known = tuple(each for each in found if each is not None)
    return known if isinstance(output, list | tuple) else known[0]


def _index(value: Any) -> int | None:
    is_index = isinstance(value, SupportsIndex) and not isinstance(value, bool | Tensor)
    return value.__index__() if is_index else None


def _path(output: Output) -> tuple[int | str, ...]:
    return () if output is None else (output,) if isinstance(output, int | str) else tuple(output)


def _pick(returned: Any, step: int | str) -> Any:
    if isinstance(returned, Tensor | fx.Proxy):
        raise InputError(f"output={shown(step)} would select from a single tensor: leave out output=")
    if isinstance(step, str) and not isinstance(returned, Mapping) and hasattr(returned, step):
        return getattr(returned, step)
    try:
        return returned[step]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"the model returns {_named(returned)} without {shown(step)}: use {_choices(returned)}"
        ) from error


def _named(returned: Any) -> str:
    return f"a {type(returned).__name__.removeprefix('immutable_')}"


def _choices(returned: Any) -> str:
    if isinstance(returned, Mapping):
        return f"one of the keys {', '.join(map(repr, returned))}"
    if isinstance(returned, list | tuple):
        return f"an index below {len(returned)}"
    return "an index, a key or the name of an attribute"

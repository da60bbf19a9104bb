"""Select the output of a model that is explained."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch.utils._pytree as pytree
from torch import fx

from fxlrp.errors import CaptureError, InputError

Output: TypeAlias = "int | str | Sequence[int | str] | None"


class Every(enum.Enum):
    """Every output of a model, in any structure."""

    OUTPUT = enum.auto()


EVERY_OUTPUT = Every.OUTPUT
Selected: TypeAlias = "Output | Literal[Every.OUTPUT]"
_STRUCTURE = "structure"


def place_output(node: fx.Node, returned: Any, output: Selected) -> None:
    """Make the output node return the output to explain, or all leaves of the outputs of the model.

    Raises:
        InputError: The output does not exist.
        CaptureError: The model returns several outputs, and none is selected.
    """
    if output is not EVERY_OUTPUT:
        node.args = (select_output(returned, output),)
        return
    leaves, node.meta[_STRUCTURE] = pytree.tree_flatten(returned)
    node.args = (tuple(leaves),)


def structure_of_outputs(graph: fx.Graph) -> pytree.TreeSpec:
    """The structure whose leaves are the outputs of a graph."""
    structure: pytree.TreeSpec = graph.output_node().meta[_STRUCTURE]
    return structure


def select_output(returned: Any, output: Output) -> fx.Node:
    """Return the node of the output to explain.

    Args:
        returned: The outputs of the model, with nodes in place of tensors.
        output: An index, a key or the name of an attribute, or a sequence of them for a nested output; None for a
            model that returns a single tensor.

    Raises:
        InputError: The output does not exist.
        CaptureError: The model returns several outputs, and none is selected.
    """
    returned = follow(returned, output)
    if isinstance(returned, fx.Node):
        return returned
    if not _path(output):
        raise CaptureError(
            f"the model returns {_named(returned)}, but only a single tensor can be explained: select it with "
            f"fxlrp.compile(..., output=...), {_choices(returned)}"
        )
    raise InputError(f"output={output!r} selects {_named(returned)}, which is not a tensor: use {_choices(returned)}")


def follow(returned: Any, output: Output) -> Any:
    """Return the part of the outputs that ``output`` selects."""
    for step in _path(output):
        returned = _pick(returned, step)
    return returned


def _path(output: Output) -> tuple[int | str, ...]:
    return () if output is None else (output,) if isinstance(output, int | str) else tuple(output)


def _pick(returned: Any, step: int | str) -> Any:
    if isinstance(returned, fx.Node):
        raise InputError(f"output={step!r} would select from a single tensor: leave out output=")
    if isinstance(step, str) and not isinstance(returned, Mapping) and hasattr(returned, step):
        return getattr(returned, step)
    try:
        return returned[step]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"the model returns {_named(returned)} without {step!r}: use {_choices(returned)}") from error


def _named(returned: Any) -> str:
    return f"a {type(returned).__name__.removeprefix('immutable_')}"


def _choices(returned: Any) -> str:
    if isinstance(returned, Mapping):
        return f"one of the keys {', '.join(map(repr, returned))}"
    if isinstance(returned, list | tuple):
        return f"an index below {len(returned)}"
    return "an index, a key or the name of an attribute"

"""The dimension of the channels of a value."""

from __future__ import annotations

from torch import fx

from fxlrp.operation import Family
from fxlrp.program import Program

# Their result has the channels of the operand, unless it reduces them.
_KEEPING = frozenset({Family.SUM, Family.PRODUCT, Family.ACTIVATION, Family.NORMALIZATION, Family.CHECK})


def channel_dim(program: Program, value: fx.Node) -> int | None:
    """Return the dimension of the channels of a value, counted from the last; None if the graph does not show it.

    These are the channels of convolutions and of pooling, and the features of dense layers, embeddings and layer norms,
    also behind operations that keep them, such as activations and sums. One operand of a sum is enough, such as the
    branch of a skip connection; operands that contradict each other tell nothing.
    """
    found: dict[fx.Node, int | None] = {}
    pending = [value]
    while pending:
        node = pending[-1]
        own, passed_on = _read(program, node)
        missing = [each for each in passed_on if each not in found]
        if missing:
            pending.extend(missing)
            continue
        told = {found[each] for each in passed_on} - {None}
        found[node] = own if own is not None else told.pop() if len(told) == 1 else None
        pending.pop()
    return found[value]


def _read(program: Program, node: fx.Node) -> tuple[int | None, list[fx.Node]]:
    """The channels that an operation gives its result, or the operands whose channels it keeps."""
    operation = program.vocabulary.operation(node)
    if operation is None:
        return None, []
    if operation.dims:
        return -1 - operation.dims, []
    arguments = operation.arguments(node)
    of_rows = operation.family in (Family.LINEAR, Family.NORMALIZATION)
    if operation.family is Family.EMBEDDING or (of_rows and operation.tells(operation.rowwise, arguments)):
        return -1, []
    if operation.family not in _KEEPING and not (operation.elementwise or operation.keeps_dimensions):
        return None, []
    return None, [each for each in operation.operands_of(node) if each in program.facts.dependent]

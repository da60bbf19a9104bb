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
    also behind operations that keep them, such as activations and sums.
    """
    seen: fx.Node | None = value
    while isinstance(seen, fx.Node):
        operation = program.vocabulary.operation(seen)
        if operation is None:
            return None
        if operation.dims:
            return -1 - operation.dims
        arguments = operation.arguments(seen)
        of_rows = operation.family in (Family.LINEAR, Family.NORMALIZATION)
        if operation.family is Family.EMBEDDING or (of_rows and operation.tells(operation.rowwise, arguments)):
            return -1
        if operation.family not in _KEEPING and not (operation.elementwise or operation.keeps_dimensions):
            return None
        seen = next((each for each in operation.operands_of(seen) if each in program.facts.dependent), None)
    return None

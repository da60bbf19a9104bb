"""Creates the canonical calls that replace a composite one."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import fx

from fxlrp.lost_inputs import sources_of
from fxlrp.program import Program, input_name
from fxlrp.provenance import provenance

Made: TypeAlias = "fx.Node | tuple[fx.Node, ...]"


class Builder:
    """Creates canonical calls in place of a composite one."""

    def __init__(self, program: Program, node: fx.Node) -> None:
        """Create the calls for a composite ``node``, at the insertion point of the graph."""
        self._program, self._node = program, node

    def depends(self, value: Any) -> bool:
        """Whether a value depends on an input through tensors, and not only through sizes or comparisons.

        Inputs that are declared constants count as parameters.
        """
        seen: set[fx.Node] = set()
        waiting = [value] if isinstance(value, fx.Node) else []
        while waiting:
            node = waiting.pop()
            if node.op == "placeholder" and input_name(node) not in self._program.options.constants:
                return True
            if node not in seen:
                seen.add(node)
                waiting.extend(sources_of(node, self._program.vocabulary.operation(node)))
        return False

    def __call__(self, operation: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Create a call of a canonical operation, with the provenance of the composite one."""
        made = self._program.graph.call_function(self._program.vocabulary.operations[operation].function, args, kwargs)
        made.meta = provenance(self._node)
        return made

"""Let modules that read a value on several devices in the same layout share it.

The projections of attention read one value, and each makes a ``DTensor`` of it. What they pass back are terms of a sum,
which are added up where they meet: if that is one ``DTensor``, they are reduced across devices once for all.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

from torch import fx

from fxlrp.layouts import from_local, redistribute, to_local
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program

_CHANGES = (from_local, redistribute, to_local)


@compiler_pass(needs=["functional", "canonical"], after=["remove_identities"], before=["name_nodes"])
def merge_layouts(program: Program) -> int:
    """Remove changes of a layout that an earlier node makes of the same value; return how many."""
    first: dict[Hashable, fx.Node] = {}
    count = 0
    for node in list(program.graph.nodes):
        if node.op != "call_function" or node.target not in _CHANGES:
            continue
        kept = first.setdefault(_key(program, node), node)
        if kept is not node:
            node.replace_all_uses_with(kept)
            program.graph.erase_node(node)
            count += 1
    return count


def _key(program: Program, node: fx.Node) -> Hashable:
    """The change and its value; parameters are read for their mesh only."""
    meshes = [_mesh(program, each) for each in node.args[1:]]
    return (node.target, node.args[0], *meshes)


def _mesh(program: Program, argument: Any) -> Any:
    if not isinstance(argument, fx.Node):
        return argument
    parameter = operator.attrgetter(str(argument.target))(program.graph_module)
    return getattr(parameter, "device_mesh", argument)

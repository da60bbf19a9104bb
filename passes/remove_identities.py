"""Remove operations that do nothing in eval mode: dropout, stochastic depth, clones, asserts."""

from __future__ import annotations

import torch
from torch import fx

from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import module_path

_ASSERTS = (torch._assert, torch._assert_async)


@compiler_pass(needs=["functional", "canonical"], provides=["no identities"])
def remove_identities(program: Program) -> int:
    """Let users of an identity read its input, and drop asserts; return how many nodes were removed."""
    count = 0
    for node in list(program.graph.nodes):
        operation = program.vocabulary.operation(node)
        if operation is not None and operation.family is Family.IDENTITY:
            source = operation.arguments(node)["input"]
            assert isinstance(source, fx.Node)
            program.facts.removed[module_path(node)] = (
                "the module at this path changes nothing in eval mode, and is removed: name the value that it reads"
            )
            node.replace_all_uses_with(source)
        elif node.target not in _ASSERTS:
            continue
        program.graph.erase_node(node)
        count += 1
    return count

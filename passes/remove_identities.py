"""Remove operations that do nothing in eval mode: dropout, stochastic depth, clones, asserts.

``detach`` does not change a value either, and stays only where the user declares its result a constant.
"""

from __future__ import annotations

import torch
from torch import fx

from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import module_path
from fxlrp.relevance import identity

_ASSERTS = (torch._assert, torch._assert_async)


@compiler_pass(needs=["functional", "canonical"], provides=["no identities"])
def remove_identities(program: Program) -> int:
    """Let users of an identity read its input, and drop asserts; return how many nodes were removed."""
    count, constants = 0, _constants(program)
    for node in list(program.graph.nodes):
        operation = program.vocabulary.operation(node)
        if operation is not None and operation.family is Family.IDENTITY:
            if operation.name in constants:
                continue
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


def _constants(program: Program) -> set[str]:
    """The operations that pairs of rules name, to make their results constants."""
    pairs = program.options.preset.pairs
    return {pair.selector for pair in pairs if isinstance(pair.selector, str) and type(pair.rule) in identity.RULES}

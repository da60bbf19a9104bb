"""Compute values again that are cheap to compute from values that are kept anyway, rather than keep them, too."""

from __future__ import annotations

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.relevance.form import reads_values


@compiler_pass(needs=["relevance"], after=["release_values"], before=["checkpoint", "keep_constants", "reuse_memory"])
def recompute_values(program: Program) -> int:
    """Let relevance steps read copies of cheap values; return how many."""
    nodes = list(program.graph.nodes)
    order = {node: index for index, node in enumerate(nodes)}
    forward, steps = nodes[: program.start], set(nodes[program.start :])
    kept = {_memory(program, node) for node in forward if _readers(node, steps)}
    copies = []
    for node in forward:
        readers = _readers(node, steps)
        if readers and _is_cheap(program, node) and _is_made_of(program, node, kept):
            kept.discard(node)
            with program.graph.inserting_before(min(readers, key=order.__getitem__)):
                copy = program.graph.node_copy(node)
            copy._rename(f"{node.name}_again")
            for reader in readers:
                reader.replace_input_with(node, copy)
            copies.append(copy)
    program.emitted.recomputed |= frozenset(copies)
    return len(copies)


def _readers(node: fx.Node, steps: set[fx.Node]) -> list[fx.Node]:
    """The relevance steps that read the elements of a value."""
    return [user for user in node.users if user in steps and reads_values(user, node)]


def _is_cheap(program: Program, node: fx.Node) -> bool:
    operation = program.vocabulary.operation(node)
    return operation is not None and operation.is_cheap and node in program.facts.dependent


def _is_made_of(program: Program, node: fx.Node, kept: set[fx.Node]) -> bool:
    """Whether all values that an operation reads, and that depend on the input, are kept."""
    sources = [source for source in node.all_input_nodes if source in program.facts.dependent]
    return all(_memory(program, source) in kept for source in sources)


def _memory(program: Program, node: fx.Node) -> fx.Node:
    """The value whose memory a value shares, as far as it is known to be a view."""
    operation = program.vocabulary.operation(node)
    while operation is not None and operation.moves and not operation.allocates and not operation.is_cast:
        (first, *_) = operation.operands_of(node)
        if not isinstance(first, fx.Node):
            break
        node, operation = first, program.vocabulary.operation(first)
    return node

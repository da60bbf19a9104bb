"""Compute values again that are cheap to compute from values that are kept anyway, rather than keep them, too."""

from __future__ import annotations

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.passes.release_values import release
from fxlrp.program import Program
from fxlrp.relevance.form import reads_values


@compiler_pass(needs=["relevance"], after=["release_values"], before=["checkpoint", "keep_constants", "reuse_memory"])
def recompute_values(program: Program) -> int:
    """Let relevance steps read copies of cheap values, and of views of them; return how many copies."""
    nodes = list(program.graph.nodes)
    order = {node: index for index, node in enumerate(nodes)}
    forward, steps = nodes[: program.start], set(nodes[program.start :])
    views: dict[fx.Node, list[fx.Node]] = {}
    for node in forward:
        views.setdefault(_memory(program, node), []).append(node)
    kept = {_memory(program, node) for node in forward if _readers(node, steps)}
    made: list[fx.Node] = []
    for node in forward:
        if not (_is_cheap(program, node) and _is_made_of(program, node, kept)):
            continue
        read = {view: _readers(view, steps) for view in views.get(node, ())}
        readers = [reader for each in read.values() for reader in each]
        if not readers:
            continue
        kept.discard(node)
        copies = _copied(_with_sources(read), min(readers, key=order.__getitem__))
        for view, own in read.items():
            for reader in own:
                reader.replace_input_with(view, copies[view])
            if not steps.isdisjoint(view.users):
                release(program, view, steps)
        made.extend(copies.values())
    program.emitted.recomputed |= frozenset(made)
    return len(made)


def _copied(nodes: list[fx.Node], reader: fx.Node) -> dict[fx.Node, fx.Node]:
    """Copies of nodes, which read each other, in front of a reader."""
    copies: dict[fx.Node, fx.Node] = {}
    with reader.graph.inserting_before(reader):
        for node in nodes:
            copies[node] = reader.graph.node_copy(node, lambda source: copies.get(source, source))
            copies[node]._rename(f"{node.name}_again")
    return copies


def _with_sources(read: dict[fx.Node, list[fx.Node]]) -> list[fx.Node]:
    """The views of a value that are read, and those from which they are made, in order."""
    needed: set[fx.Node] = set()
    for view in reversed(read):
        if read[view] or any(user in needed for user in view.users):
            needed.add(view)
    return [view for view in read if view in needed]


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
    while (
        operation is not None
        and operation.moves
        and not (operation.allocates or operation.is_cast or operation.is_cheap)
    ):
        (first, *_) = operation.operands_of(node)
        if not isinstance(first, fx.Node):
            break
        node, operation = first, program.vocabulary.operation(first)
    return node

"""Keep only the shape and type of values of which relevance steps read nothing else, so that their memory is freed."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import provenance
from fxlrp.relevance.form import form_of, reads_values


@compiler_pass(needs=["relevance"], before=["checkpoint", "keep_constants", "reuse_memory"])
def release_values(program: Program) -> int:
    """Let relevance steps read forms in place of values that no step reads otherwise; return how many values."""
    nodes = list(program.graph.nodes)
    steps = set(nodes[program.start :])
    forward = [node for node in nodes[: program.start] if node.op == "call_function"]
    released = [node for node in forward if _is_read_for_its_form(node, steps)]
    for node in released:
        release(program, node, steps)
    return len(released)


def release(program: Program, node: fx.Node, steps: Collection[fx.Node]) -> None:
    """Let relevance steps read the form of a value in place of the value."""
    with program.graph.inserting_after(node):
        form = program.graph.call_function(form_of, (node,))
    form.meta = provenance(node)
    form._rename(f"{node.name}_form")
    for user in list(node.users):
        if user in steps:
            user.replace_input_with(node, form)


def _is_read_for_its_form(node: fx.Node, steps: set[fx.Node]) -> bool:
    """Whether there are steps that read a value, and all of them read only its form."""
    readers = [user for user in node.users if user in steps]
    return bool(readers) and not any(reads_values(user, node) for user in readers)

"""Emit the relevance program behind the forward one: it explains the output that a target or a seed selects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from fxlrp.errors import InputError
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.propagate import Ledger, propagate
from fxlrp.provenance import describe, is_inside
from fxlrp.relevance.initial_relevance import initial_relevance


@compiler_pass(needs=["annotated", "functional", "no identities"], provides=["relevance"])
def emit_relevance(program: Program) -> int:
    """Append a step for every annotated node and return the inputs' relevance; return how many steps there are."""
    graph, output = program.graph, program.graph.output_node()
    forward = list(graph.nodes)
    inputs = [node for node in forward if node.op == "placeholder"]
    target, seed = _explanation_inputs(graph, inputs)
    (explained,) = program.outputs
    with graph.inserting_before(output):
        start = graph.call_function(initial_relevance, (explained, target, seed))
        ledger = propagate(program, forward, {explained: start})
        program.ends = tuple(inputs) if program.at is None else (_value_at(program, program.at, forward, ledger),)
        results = [ledger.relevance(node) or graph.call_function(torch.zeros_like, (node,)) for node in program.ends]
    output.args = (results[0] if len(results) == 1 else tuple(results),)
    return ledger.steps


def _value_at(program: Program, at: str, forward: Sequence[fx.Node], ledger: Ledger) -> fx.Node:
    """The value that is called ``at``, or that the module at this path hands on.

    Raises:
        InputError: There is no such value, the module hands on several, or no relevance reaches it.
    """
    readers = {*forward, program.graph.output_node()}

    def is_handed_on(node: fx.Node) -> bool:
        return is_inside(node, at) and any(user in readers and not is_inside(user, at) for user in node.users)

    found = [node for node in forward if node.name == at]
    found = found or [node for node in forward if ledger.received(node) is not None and is_handed_on(node)]
    if not found:
        raise InputError(
            f"at={at!r}: no node has this name, and no module at this path hands on a value with relevance"
        )
    if len(found) > 1:
        names = ", ".join(repr(node.name) for node in found)
        raise InputError(f"at={at!r}: the module hands on several values, or is called more than once: take {names}")
    if ledger.relevance(found[0]) is None:
        raise InputError(f"at={at!r}: no relevance reaches the {describe(found[0])}")
    return found[0]


def _explanation_inputs(graph: fx.Graph, inputs: list[fx.Node]) -> tuple[fx.Node, fx.Node]:
    """The inputs that an explanation has beside the model's, which may have the same names."""
    taken = {node.target for node in inputs}
    names = ["explanation_" * (name in taken) + name for name in ("target", "seed")]
    with graph.inserting_after(inputs[-1]):
        seed = graph.placeholder(names[1], default_value=None)
        target = graph.placeholder(names[0], default_value=None)
    return target, seed

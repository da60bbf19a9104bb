"""Emit the relevance program after the forward one: it explains the output that a target or a seed selects."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.absence import why_absent
from fxlrp.errors import InputError
from fxlrp.interface import Interface, Result
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Emitted, Program, input_name, inputs_among, receivers
from fxlrp.propagate import Ledger, propagate
from fxlrp.provenance import describe, is_inside
from fxlrp.relevance.initial_relevance import initial_gradient, initial_relevance


@compiler_pass(needs=["annotated", "functional", "no identities"], provides=["relevance"])
def emit_relevance(program: Program) -> int:
    """Append a step for every annotated node and return the inputs' relevance; return how many steps there are."""
    graph, output = program.graph, program.graph.output_node()
    annotated, forward = program.annotated or copy.deepcopy(graph), list(graph.nodes)
    inputs = inputs_among(forward)
    controls = _controls(graph, inputs)
    (explained,) = program.outputs
    with graph.inserting_before(output):
        start = _start(program, explained, controls, _tokens(program, forward))
        ledger = propagate(program, forward, {explained: start})
        asked = _asked_for(program, forward, ledger)
        results = [_result(graph, ledger, name, node, explained) for name, node in asked.items()]
    output.args = (results[0][1] if len(results) == 1 else tuple(node for _, node in results),)
    interface = Interface(
        inputs=tuple(node.name for node in inputs),
        controls={name: node.name for name, node in controls.items()},
        starts={explained.name: start.name},
        results=tuple(result for result, _ in results),
    )
    program.emitted = Emitted(annotated, interface, ledger.flows)
    return len(ledger.flows)


def _controls(graph: fx.Graph, inputs: list[fx.Node]) -> dict[str, fx.Node]:
    """The inputs of an explanation beside those of the model, which may have the same names."""
    taken = {node.target for node in inputs}
    controls: dict[str, fx.Node] = {}
    last = inputs[-1]
    for name in ("target", "seed"):
        with graph.inserting_after(last):
            last = graph.placeholder("explanation_" * (name in taken) + name, default_value=None)
        controls[name] = last
    return controls


def _start(program: Program, explained: fx.Node, controls: dict[str, fx.Node], tokens: dict[str, Any]) -> fx.Node:
    """The initial relevance; the positions that are computed depend on the target, too."""
    positions = program.facts.positions
    initial = initial_gradient if program.options.preset.starts_with_one else initial_relevance
    if positions is None:
        return program.graph.call_function(initial, (explained, *controls.values()), tokens)
    positions.args, positions.kwargs = (*positions.args, *controls.values()), tokens
    told = {**tokens, "positions": positions}
    return program.graph.call_function(initial, (explained, *controls.values()), told)


def _tokens(program: Program, forward: Sequence[fx.Node]) -> dict[str, Any]:
    """The inputs that are tokens with relevance, as an argument of the initial relevance; none without tokens."""
    tokens: set[fx.Node] = set()
    for node in reversed(forward):
        operation = program.vocabulary.operation(node)
        reads_tokens = operation is not None and operation.token_operand is not None
        if reads_tokens or node in tokens:
            tokens.update(receivers(node, program.vocabulary))
    found = tuple(node for node in inputs_among(forward) if node in tokens)
    return {"tokens": found} if found else {}


def _asked_for(program: Program, forward: Sequence[fx.Node], ledger: Ledger) -> dict[str, fx.Node]:
    """The values whose relevance is requested, by the name of the result."""
    at = program.options.at
    if at is None:
        constants = program.options.constants
        return {input_name(node): node for node in inputs_among(forward) if input_name(node) not in constants}
    return {at: _value_at(program, at, forward, ledger)}


def no_relevance(value: Tensor, output: Tensor) -> Tensor:
    """Zeros for a value that no relevance reaches; in the type of the output for tokens, which are integers."""
    return torch.zeros_like(value, dtype=value.dtype if value.is_floating_point() else output.dtype)


def _result(graph: fx.Graph, ledger: Ledger, name: str, value: fx.Node, like: fx.Node) -> tuple[Result, fx.Node]:
    received = ledger.relevance(value)
    relevance = graph.call_function(no_relevance, (value, like)) if received is None else received
    return Result(name, value.name, relevance.name, is_reached=received is not None), relevance


def _value_at(program: Program, at: str, forward: Sequence[fx.Node], ledger: Ledger) -> fx.Node:
    """The value with the name ``at``, or the value that the module at this path returns.

    Raises:
        InputError: The value does not exist, the module returns several, or no relevance reaches the value.
    """
    readers = {*forward, program.graph.output_node()}

    def is_returned(node: fx.Node) -> bool:
        return is_inside(node, at) and any(user in readers and not is_inside(user, at) for user in node.users)

    found = [node for node in forward if node.name == at]
    found = found or [node for node in forward if ledger.received(node) is not None and is_returned(node)]
    if not found:
        raise InputError(f"at={at!r}: {why_absent(program, at)}")
    if len(found) > 1:
        names = ", ".join(repr(node.name) for node in found)
        raise InputError(f"at={at!r}: the module returns several values, or is called more than once: choose {names}")
    if ledger.relevance(found[0]) is None:
        raise InputError(f"at={at!r}: no relevance reaches the {describe(found[0])}")
    return found[0]

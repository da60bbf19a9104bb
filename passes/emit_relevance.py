"""Emit the relevance program after the forward one: it explains the output that a target or a seed selects."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.channels import channel_dim
from fxlrp.errors import InputError
from fxlrp.inputs import identifier
from fxlrp.interface import Interface, Result, condition_on
from fxlrp.passes.base import compiler_pass
from fxlrp.places import Places
from fxlrp.program import Emitted, Program, input_name, inputs_among, receivers
from fxlrp.propagate import Condition, Ledger, propagate
from fxlrp.provenance import describe, provenance
from fxlrp.question import Question
from fxlrp.relevance.conditions import mask_of, restricted
from fxlrp.relevance.initial_relevance import initial_relevance
from fxlrp.relevance.stacked import initial_relevances, masks_of


@compiler_pass(needs=["annotated", "functional", "no identities"], provides=["relevance"])
def emit_relevance(program: Program) -> int:
    """Append a step for every annotated node and return the inputs' relevance; return how many steps there are."""
    graph, output, question = program.graph, program.graph.output_node(), program.options.question
    annotated, forward = program.annotated or copy.deepcopy(graph), list(graph.nodes)
    inputs, places = inputs_among(forward), Places(program)
    controls = _controls(graph, inputs, question)
    (explained,) = program.outputs
    conditions = _conditions(question, places)
    with graph.inserting_before(output):
        masks = {value: _mask(program, value, name, controls) for value, name in conditions.items()}
        start = _start(program, explained, controls, _tokens(program, forward))
        restrictions = {value: _restriction(program, value, mask) for value, mask in masks.items()}
        ledger = propagate(program, forward, {explained: start}, restrictions)
        asked = _asked_for(program, forward, places, ledger)
        results = [_result(program, ledger, name, node, explained) for name, node in asked.items()]
    values = tuple(asked.values()) if question.returns_values else ()
    returned = (*(node for _, node in results), *values, *((explained,) if question.returns_output else ()))
    output.args = (returned[0] if len(returned) == 1 else returned,)
    interface = Interface(
        inputs=tuple(node.name for node in inputs),
        controls={name: node.name for name, node in controls.items()},
        starts={explained.name: start.name},
        results=tuple(result for result, _ in results),
        conditions=tuple(mask.name for mask in masks.values()),
        returns_output=question.returns_output,
    )
    program.emitted = Emitted(annotated, interface, ledger.flows)
    return len(ledger.flows)


def _controls(graph: fx.Graph, inputs: list[fx.Node], question: Question) -> dict[str, fx.Node]:
    """The inputs of an explanation beside those of the model, which may have the same names."""
    taken = {node.target for node in inputs}
    conditions = {condition_on(name): f"only_{identifier(name)}" for name in question.only}
    controls: dict[str, fx.Node] = {}
    last = inputs[-1]
    for name, argument in {"target": "target", "seed": "seed", **conditions}.items():
        with graph.inserting_after(last):
            last = graph.placeholder("explanation_" * (argument in taken) + argument, default_value=None)
        controls[name] = last
    return controls


def _start(program: Program, explained: fx.Node, controls: dict[str, fx.Node], tokens: dict[str, Any]) -> fx.Node:
    """The initial relevance; the positions that are computed depend on the target, too."""
    function = initial_relevances if program.options.question.stacked else initial_relevance
    chosen = (controls["target"], controls["seed"])
    positions = program.facts.positions
    if positions is None:
        return program.graph.call_function(function, (explained, *chosen), tokens)
    positions.args, positions.kwargs = (*positions.args, *chosen), tokens
    told = {**tokens, "positions": positions}
    return program.graph.call_function(function, (explained, *chosen), told)


def _mask(program: Program, value: fx.Node, name: str, controls: dict[str, fx.Node]) -> fx.Node:
    """Emit the mask of a condition."""
    function = masks_of if program.options.question.stacked else mask_of
    control, dim = controls[condition_on(name)], channel_dim(program, value)
    mask = program.graph.call_function(function, (value, control, name, dim))
    mask.meta = provenance(value)
    mask._rename(f"mask_of_{value.name}")
    return mask


def _restriction(program: Program, value: fx.Node, mask: fx.Node) -> Condition:
    """Return the function that emits the relevance of a value under a mask."""

    def restrict(factor: fx.Node) -> fx.Node:
        made = program.graph.call_function(restricted, (factor, mask))
        made.meta = provenance(value)
        return made

    return restrict


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


def _conditions(question: Question, places: Places) -> dict[fx.Node, str]:
    """The values with conditions, and the names by which they were given."""
    found: dict[fx.Node, str] = {}
    for name in question.only:
        value = places.value("only", name, lambda each: True)
        if value in found:
            raise InputError(f"only= has two conditions on one value: {found[value]!r} and {name!r}")
        found[value] = name
    return found


def _asked_for(program: Program, forward: Sequence[fx.Node], places: Places, ledger: Ledger) -> dict[str, fx.Node]:
    """The values whose relevance is requested, by the name of the result.

    Raises:
        InputError: A value does not exist, or no relevance reaches it.
    """
    given, constants = program.options.question.at, program.options.constants
    if not given:
        return {input_name(node): node for node in inputs_among(forward) if input_name(node) not in constants}

    def has_relevance(value: fx.Node) -> bool:
        return ledger.relevance_of_one(value) is not None

    asked = {name: places.value("at", name, has_relevance) for name in places.names(given, has_relevance)}
    for name, value in asked.items():
        if not has_relevance(value):
            raise InputError(f"at={name!r}: no relevance reaches the {describe(value)}")
    return asked


def no_relevance(value: Tensor, output: Tensor) -> Tensor:
    """Zeros for a value that no relevance reaches; in the type of the output for tokens, which are integers."""
    return torch.zeros_like(value, dtype=value.dtype if value.is_floating_point() else output.dtype)


def _result(program: Program, ledger: Ledger, name: str, value: fx.Node, like: fx.Node) -> tuple[Result, fx.Node]:
    received = ledger.relevance(value)
    relevance = program.graph.call_function(no_relevance, (value, like)) if received is None else received
    result = Result(name, value.name, relevance.name, received is not None, channel_dim(program, value))
    return result, relevance

"""Emit the relevance program after the forward one: it explains the output that a target or a seed selects."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.channels import channel_dim
from fxlrp.errors import InputError
from fxlrp.graph_parts import copied
from fxlrp.inputs import identifier
from fxlrp.interface import Interface, Result, condition_on
from fxlrp.layouts import takes_local_parts
from fxlrp.ledger import Condition, Ledger
from fxlrp.passes.base import compiler_pass
from fxlrp.places import Places
from fxlrp.program import Emitted, Program, annotation, input_name, inputs_among, receivers
from fxlrp.propagate import propagate
from fxlrp.provenance import describe, provenance
from fxlrp.question import Question
from fxlrp.relevance.coefficients import initial_coefficient
from fxlrp.relevance.conditions import mask_of, restricted
from fxlrp.relevance.initial_relevance import initial_gradient, initial_relevance
from fxlrp.relevance.stacked import INITIAL_STACKED, masks_of


@compiler_pass(needs=["annotated", "functional", "no identities"], provides=["relevance"])
def emit_relevance(program: Program) -> int:
    """Append a step for every annotated node and return the inputs' relevance; return how many steps there are."""
    graph, output, question = program.graph, program.graph.output_node(), program.options.question
    annotated, forward = program.annotated or copied(graph), list(graph.nodes)
    # A question that names no place asks for the inputs.
    inputs, places = inputs_among(forward), Places(program, forward if question.names else ())
    controls = _controls(graph, inputs, question)
    (output_value,) = program.outputs
    explained = next((node for node, whole in program.facts.whole.items() if whole is output_value), output_value)
    conditions = _conditions(program, places, _reached(program, forward, explained)) if question.only else {}
    with graph.inserting_before(output):
        masks = {value: _mask(program, value, name, controls) for value, name in conditions.items()}
        start = _start(program, explained, controls, _tokens(program, forward))
        restrictions = {value: _restriction(program, value, mask) for value, mask in masks.items()}
        parameters = _parameters(program, places)
        reads = [node for found in parameters.values() for nodes in found.values() for node in nodes]
        ledger = propagate(program, forward, {explained: start}, restrictions, reads)
        asked = _asked_for(program, forward, places, parameters, ledger)
        results = [_result(program, ledger, name, node, explained) for name, node in asked.items()]
    values = tuple(sources[0] for sources in asked.values()) if question.returns_values else ()
    returned = (*(node for _, node in results), *values, *((output_value,) if question.returns_output else ()))
    output.args = (returned[0] if len(returned) == 1 else returned,)
    interface = Interface(
        inputs=tuple(node.name for node in inputs),
        controls={name: node.name for name, node in controls.items()},
        starts={output_value.name: start.name},
        results=tuple(result for result, _ in results),
        conditions=tuple(mask.name for mask in masks.values()),
        returns_output=question.returns_output,
    )
    program.emitted = Emitted(annotated, interface, ledger.flows)
    return len(ledger.flows)


def _controls(graph: fx.Graph, inputs: list[fx.Node], question: Question) -> dict[str, fx.Node]:
    """The inputs of an explanation beside those of the model, which may have the same names.

    Names of conditions such as "a.b" and "a_b" make one identifier, too.
    """
    taken = {node.target for node in inputs}
    conditions = {condition_on(name): f"only_{identifier(name)}" for name in question.only}
    controls: dict[str, fx.Node] = {}
    last = inputs[-1]
    for name, argument in {"target": "target", "seed": "seed", **conditions}.items():
        while argument in taken:
            argument = f"explanation_{argument}"
        taken.add(argument)
        with graph.inserting_after(last):
            last = graph.placeholder(argument, default_value=None)
        controls[name] = last
    return controls


def _start(program: Program, explained: fx.Node, controls: dict[str, fx.Node], tokens: dict[str, Any]) -> fx.Node:
    """The initial relevance; the positions that are computed depend on the target, too."""
    question, is_gradient = program.options.question, program.options.preset.starts_with_one
    if is_gradient and question.coefficients:
        raise InputError(
            f"the results of the preset {program.options.preset.name} are gradients and have no coefficients"
        )
    form = "gradient" if is_gradient else "coefficient" if question.coefficients else "relevance"
    function = (INITIAL_STACKED if question.stacked else _INITIAL)[form]
    chosen = (controls["target"], controls["seed"])
    positions = program.facts.positions
    if positions is None:
        return program.graph.call_function(function, (explained, *chosen), tokens)
    positions.args, positions.kwargs = (*positions.args, *chosen), tokens
    told = {**tokens, "positions": positions}
    return program.graph.call_function(function, (explained, *chosen), told)


_INITIAL: Mapping[str, Callable[..., Tensor]] = {
    "relevance": initial_relevance,
    "coefficient": initial_coefficient,
    "gradient": initial_gradient,
}


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


def _parameters(program: Program, places: Places) -> dict[str, dict[str, tuple[fx.Node, ...]]]:
    """The parameters that each name of the question means, with the nodes that read them.

    Raises:
        InputError: Coefficients are requested, which parameters do not have.
    """
    question = program.options.question
    found = {name: places.parameters(name) for name in question.at}
    found = {name: parameters for name, parameters in found.items() if parameters}
    if found and question.coefficients:
        raise InputError(f"at={next(iter(found))!r} is a parameter: parameters have relevance, but no coefficients")
    return found


def _reached(program: Program, forward: Sequence[fx.Node], explained: fx.Node) -> frozenset[fx.Node]:
    """The values that relevance reaches when nothing has a condition."""
    return frozenset({explained, *(each for node in forward for each in receivers(node, program.vocabulary))})


def _conditions(program: Program, places: Places, reached: frozenset[fx.Node]) -> dict[fx.Node, str]:
    """The values with conditions, and the names by which they were given.

    Raises:
        InputError: A value does not exist, has two conditions, or no relevance reaches it; or values may be parts
            on this device of those whose channels are counted.
    """
    found: dict[fx.Node, str] = {}
    if program.options.question.only and takes_local_parts(program.graph):
        raise InputError("only= counts the channels of a whole value, but this model takes local parts of DTensor")
    for name in program.options.question.only:
        value = places.value("only", name, reached.__contains__)
        if value not in reached:
            raise InputError(f"only={name!r}: no relevance reaches the {describe(value)}")
        if value in found:
            raise InputError(f"only= has two conditions on one value: {found[value]!r} and {name!r}")
        found[value] = name
    return found


def _asked_for(
    program: Program,
    forward: Sequence[fx.Node],
    places: Places,
    parameters: Mapping[str, Mapping[str, tuple[fx.Node, ...]]],
    ledger: Ledger,
) -> dict[str, tuple[fx.Node, ...]]:
    """The values whose relevance is requested, by the name of the result; several nodes may read a parameter.

    Raises:
        InputError: A value does not exist, or no relevance reaches it.
    """
    given, constants = program.options.question.at, program.options.constants

    def has_relevance(value: fx.Node) -> bool:
        return value in ledger.without or ledger.relevance_of_one(value) is not None

    asked: dict[str, tuple[fx.Node, ...]] = {}
    for name in given:
        if name in parameters:
            asked.update(parameters[name])
            continue
        for each in places.names([name], has_relevance):
            asked[each] = (places.value("at", each, has_relevance),)
    for name, sources in asked.items():
        _check_coefficient(name, sources[0], ledger)
        if not any(map(has_relevance, sources)):
            raise InputError(f"at={name!r}: no relevance reaches the {describe(sources[0])}")
    if given:
        return asked
    inputs: dict[str, tuple[fx.Node, ...]] = {
        input_name(node): (node,) for node in inputs_among(forward) if input_name(node) not in constants
    }
    for name, sources in inputs.items():
        _check_coefficient(name, sources[0], ledger)
    return inputs


def no_relevance(value: Tensor, output: Tensor) -> Tensor:
    """Zeros for a value that no relevance reaches; in the type of the output for tokens, which are integers."""
    return torch.zeros_like(value, dtype=value.dtype if value.is_floating_point() else output.dtype)


def _check_coefficient(name: str, value: fx.Node, ledger: Ledger) -> None:
    """Check that a coefficient reaches a value, if coefficients are requested.

    Raises:
        InputError: A rule on the way does not pass on multiples of the operand.
    """
    by = ledger.without.get(value)
    if by is not None:
        raise InputError(
            f"{name!r} has no coefficient: the rule {_rule_of(by)} of the {describe(by)} passes on relevance that is "
            "not a multiple of its operand. Ask at values after it, or choose a rule such as Epsilon"
        )


def _rule_of(node: fx.Node) -> str:
    annotated = annotation(node)
    return "" if annotated is None else str(annotated.rule)


def _result(
    program: Program, ledger: Ledger, name: str, sources: tuple[fx.Node, ...], like: fx.Node
) -> tuple[Result, fx.Node]:
    """The result for a value, or for a parameter with the nodes that read it, whose relevance adds up."""
    found = [each for each in (_carried(program, ledger, source) for source in sources) if each is not None]
    value = sources[0]
    if not found:
        relevance = program.graph.call_function(no_relevance, (value, like))
    else:
        relevance = functools.reduce(lambda a, b: program.graph.call_function(operator.add, (a, b)), found)
    return Result(name, value.name, relevance.name, bool(found), channel_dim(program, value)), relevance


def _carried(program: Program, ledger: Ledger, value: fx.Node) -> fx.Node | None:
    """The relevance of a value, or its coefficient; None if none arrives."""
    carried = ledger.relevance_of_one(value)
    is_coefficient = carried is not None and program.options.question.coefficients
    return carried.factor if carried is not None and is_coefficient else ledger.relevance(value)

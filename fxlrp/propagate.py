"""Walk the annotated nodes from the outputs back, and emit the relevance step of each.

The emitter of a rule takes the relevance of its node and returns one contribution for each operand. Contributions to a
value that is used more than once add up. This module does not depend on any rule.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from fxlrp.errors import InternalError
from fxlrp.ledger import Condition, Ledger
from fxlrp.parameters import ParameterSteps
from fxlrp.program import Annotation, Flow, Program, Relevance, annotation, operation_under, receivers
from fxlrp.relevance import implementation
from fxlrp.relevance.coefficients import coefficient
from fxlrp.relevance.derived import complex_implementation
from fxlrp.relevance.step import Contributions, Implementation, Step, StepFacts


def propagate(
    program: Program,
    forward: Sequence[fx.Node],
    starts: Mapping[fx.Node, fx.Node],
    conditions: Mapping[fx.Node, Condition] | None = None,
    parameters: Sequence[fx.Node] = (),
) -> Ledger:
    """Emit the steps of the annotated nodes at the insertion point; return the relevance that every value received.

    Args:
        program: The annotated program.
        forward: The nodes of the forward graph, in order.
        starts: The initial relevance of each explained value.
        conditions: Emit the part of the relevance of a value that satisfies a condition.
        parameters: The nodes that read the parameters whose relevance is requested.
    """
    ledger, of_parameters = Ledger(program, forward), ParameterSteps(program, forward, parameters)
    known = {**program.facts.values, **program.facts.sizes}
    for explained, start in starts.items():
        base = explained if program.options.question.coefficients else None
        ledger.credit(explained, Relevance(start, base), by=None)
    for node in reversed(forward):
        if conditions and node in conditions:
            question = program.options.question
            ledger.restrict(node, conditions[node], bypass=question.bypass, coefficients=question.coefficients)
        annotated = annotation(node)
        # With a condition, relevance may bypass a node on every way to the result.
        if node in ledger.without:
            ledger.without.update(dict.fromkeys(receivers(node, program.vocabulary), ledger.without[node]))
        elif annotated is not None and (not conditions or ledger.received(node) is not None):
            ledger.flows[node] = _emit_step(program, known, node, annotated, ledger, of_parameters)
        of_parameters.pass_on(node, ledger)
    return ledger


def _emit_step(
    program: Program,
    known: Mapping[str, Any],
    node: fx.Node,
    annotated: Annotation,
    ledger: Ledger,
    of_parameters: ParameterSteps,
) -> Flow:
    operation = program.vocabulary.operation(node)
    how = implementation(operation, annotated.rule) if operation else None
    received = ledger.received(node)
    if operation is None or how is None or received is None:
        raise InternalError(f"no relevance arrived at the annotated node {node.name!r}")
    arrived = (received,) if isinstance(received, Relevance) else tuple(received.values())
    operation = operation_under(operation, annotated.rule)
    operands, index = operation.operands_of(node), program.vocabulary.result_index(node)
    if index is not None:
        ledger.credit_part(operands[0], index, received)
        return Flow(arrived, arrived)
    of_program = program.facts
    as_coefficients = program.options.question.coefficients
    facts = StepFacts(
        of_program.non_negative,
        of_program.finite,
        of_program.infinite,
        node in of_program.supported,
        node in of_program.quotients or (as_coefficients and how.quotients),
        as_coefficients,
        known,
        program.options.differentiable,
    )
    multiply = functools.partial(ledger.multiplied, node)
    step = Step(program.graph, node, operation, annotated.rule, annotated.carries, received, facts, multiply)
    if step.reads_complex and not how.of_complex:
        how = complex_implementation(operation, annotated.rule)
    # A rule may give all relevance to an operand that does not depend on the input.
    contributions = _contributions(step, how) if annotated.carries else (None,) * len(operands)
    _check(node, annotated, operands, contributions)
    credited: list[Relevance] = []
    for operand, contribution in zip(operands, contributions, strict=True):
        if contribution is None:
            continue
        relevance = Relevance(contribution) if isinstance(contribution, fx.Node) else contribution
        passed = coefficient(step, operand, relevance) if as_coefficients else relevance
        if passed is not None:
            credited.append(passed)
            ledger.credit(operand, passed, by=node)
        else:
            ledger.without[operand] = node
    of_parameters.credit(step, how, ledger)
    results = (None,) if isinstance(received, Relevance) else tuple(received)
    return Flow(arrived, tuple(credited), results)


def _contributions(step: Step, how: Implementation) -> Contributions:
    contributions = how.specialize(step)
    return how.emit(step) if contributions is None else contributions


def _check(node: fx.Node, annotated: Annotation, operands: tuple[Any, ...], contributions: Contributions) -> None:
    given = tuple(position for position, contribution in enumerate(contributions) if contribution is not None)
    if len(contributions) != len(operands) or given != annotated.carries:
        raise InternalError(
            f"{annotated.rule} at {node.name!r} gave contributions to the operands {given} of {len(contributions)}, "
            f"but is annotated with {annotated.carries} of {len(operands)}"
        )

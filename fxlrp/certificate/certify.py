"""Make the certificate of an explanation: run it in double precision, with coefficients, and compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.certificate.amounts import Amounts, Relevances, inner
from fxlrp.certificate.certificate import Certificate, FrozenNode, InexactNode, Sample
from fxlrp.certificate.constants import constants_of
from fxlrp.certificate.double import InDouble, widened
from fxlrp.certificate.forward import INPUT, RANDOM, SUM, ZERO, Forward, frozen_of, run_forward
from fxlrp.debugging.node_location import NodeLocation
from fxlrp.debugging.step_by_step import NodeFlow, StepByStep
from fxlrp.errors import InputError
from fxlrp.program import Program, annotation, input_name, operation_under, receivers
from fxlrp.provenance import MODEL
from fxlrp.question import Question


def question_at_ends(program: Program) -> Question:
    """The question for the coefficients of real inputs, and of the vectors that tokens select.

    Args:
        program: The annotated program.

    Raises:
        InputError: No relevance reaches an input.
    """
    vocabulary = program.vocabulary
    reached = {each for node in program.graph.nodes for each in receivers(node, vocabulary)}

    def is_end(node: fx.Node) -> bool:
        operation = vocabulary.operation(node)
        if operation is not None:
            # Tokens have no coefficients: the vectors that they select have.
            return operation.token_operand is not None and annotation(node) is not None
        return node.op == "placeholder" and node in reached and node not in program.facts.tokens

    ends = tuple(node.name for node in program.graph.nodes if is_end(node))
    if not ends:
        raise InputError(
            "no relevance reaches an input, so there is nothing to rebuild the output from: if the model ends in a "
            "softmax, whose result is held constant, explain its logits with output='<module>'"
        )
    return Question(at=ends, coefficients=True, returns_output=True)


def certify(steps: StepByStep, values: Sequence[Any], controls: Mapping[str, Any], tolerance: float) -> Certificate:
    """Run an explanation in double precision, and compare what it passes on with the output.

    Args:
        steps: The explanation with coefficients, at its ends.
        values: The inputs of the model, in order.
        controls: The target and the seed, by name.
        tolerance: The largest relative error of an exact explanation.
    """
    ends = {value for value, _ in steps.ends}
    # Tokens pass on nothing behind the vectors that they select.
    steps = replace(steps, flows=tuple(flow for flow in steps.flows if flow.node not in ends))
    program = steps.program
    nodes = [node for node in program.graph.nodes if node.op != "output"]
    start = nodes.index(steps.start)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    arguments = program.emitted.interface.arguments(values, controls)
    inputs = dict(zip(placeholders, map(widened, arguments), strict=True))
    run = InDouble(program.graph_module, program.vocabulary)
    with torch.no_grad():
        forward = run_forward(steps, run, nodes[:start], inputs, _NOT_AFFINE)
        initial = run.value(steps.start, *run.call(steps.start, forward.values))
        relevances = Relevances(steps, run, nodes[start + 1 :], forward)
        samples = [relevances.of(each) for each in _by_sample(initial)]
        random = torch.randn(initial.shape, generator=torch.Generator().manual_seed(1), dtype=initial.dtype)
        random = random.to(initial.device) * initial.abs().max()
        of_random, of_sum = relevances.of(random), relevances.of(initial + random)
    return Certificate(
        samples=tuple(_sample(each, steps) for each in samples),
        constants=constants_of(steps, forward, samples),
        frozen=_frozen(steps),
        inexact=_inexact(steps, forward, samples, tolerance),
        steps=len(steps.flows),
        second_difference=_second_difference(forward.moved),
        of_random_outputs=_of_random_outputs(forward, of_random, random),
        superposition=_superposition(samples, of_random, of_sum),
        model_dtype=_dtype(steps, values),
        tolerance=tolerance,
    )


# The difference, relative to the result of a step, that rounding may cause.
_NOT_AFFINE = 1e-9


def _by_sample(initial: Tensor) -> list[Tensor]:
    """The initial coefficients of each sample alone."""
    if not initial.dim():
        return [initial]
    return [torch.zeros_like(initial).index_copy(0, at, initial[at]) for at in torch.arange(len(initial)).unsqueeze(1)]


def _sample(amounts: Amounts, steps: StepByStep) -> Sample:
    names = {value: _end_name(value) for value, _ in steps.ends}
    inputs = {names[value]: amount for value, amount in amounts.ends.items()}
    return Sample(amounts.output, inputs, math.fsum(each.constants for each in amounts.steps.values()))


def _end_name(value: fx.Node) -> str:
    return input_name(value) if value.op == "placeholder" else value.name


def _frozen(steps: StepByStep) -> tuple[FrozenNode, ...]:
    """The nodes in which something is held constant, in order of execution."""
    found = []
    for flow in reversed(steps.flows):
        frozen, held = frozen_of(flow), _held(flow, steps)
        parts = [frozen.what] if frozen is not None else []
        if held:
            # What precedes the first semicolon says why the rule was chosen.
            reason = flow.annotation.reason.partition("; ")[2]
            parts.append(f"{', '.join(held)}{f' ({reason})' if reason else ''}")
        if parts:
            found.append(FrozenNode(_location(flow, steps), "; ".join(parts)))
    return tuple(found)


def _held(flow: NodeFlow, steps: StepByStep) -> tuple[str, ...]:
    """The arguments that depend on an input and receive no relevance: the nodes that compute them."""
    operation = operation_under(flow.operation, flow.annotation.rule)
    held: dict[fx.Node, None] = {}
    for name, value in operation.arguments(flow.node).items():
        if name not in operation.reads_form:
            fx.map_arg(value, held.setdefault)
    for position in flow.annotation.carries:
        held.pop(operation.operands_of(flow.node)[position], None)
    computed = (_origin(each, steps) for each in held if each in steps.program.facts.dependent)
    return tuple(dict.fromkeys(each.name for each in computed))


def _origin(value: fx.Node, steps: StepByStep) -> fx.Node:
    """The node that computes a value, before operations that only move it."""
    operation = steps.program.vocabulary.operation(value)
    operands = () if operation is None or not operation.moves else operation.operands_of(value)
    return _origin(operands[0], steps) if len(operands) == 1 and isinstance(operands[0], fx.Node) else value


def _inexact(
    steps: StepByStep, forward: Forward, samples: Sequence[Amounts], tolerance: float
) -> tuple[InexactNode, ...]:
    """The nodes that absorb or create relevance beyond rounding, or that are not affine."""
    found = []
    for flow in reversed(steps.flows):
        absorbed = tuple(each.steps[flow.node].absorbed for each in samples)
        scales = (max(abs(each.output), each.steps[flow.node].size) for each in samples)
        is_off = any(not abs(each) <= tolerance * scale for each, scale in zip(absorbed, scales, strict=True))
        if is_off or flow.node in forward.bent:
            found.append(InexactNode(_location(flow, steps), absorbed, forward.bent.get(flow.node, 0.0)))
    return tuple(found)


def _location(flow: NodeFlow, steps: StepByStep) -> NodeLocation:
    return NodeLocation.of(flow.node, steps.program.vocabulary)


def _second_difference(moved: Sequence[Tensor]) -> float:
    difference = moved[SUM] - moved[INPUT] - moved[RANDOM] + moved[ZERO]
    return _relative(float(difference.abs().max()), max(float(each.abs().max()) for each in moved))


def _of_random_outputs(forward: Forward, of_random: Amounts, random: Tensor) -> float:
    """``s . (F(v) - F(0)) - C(s) . v``, relative to the absolute terms of both."""
    change = forward.moved[RANDOM] - forward.moved[ZERO]
    through = [of_random.coefficients[end] * v for end, v in forward.ends.items()]
    scale = float((random * change).abs().sum()) + math.fsum(float(each.abs().sum()) for each in through)
    return _relative(abs(inner(random, change) - math.fsum(float(each.sum()) for each in through)), scale)


def _superposition(samples: Sequence[Amounts], of_random: Amounts, of_sum: Amounts) -> float:
    """``C(s + t) - C(s) - C(t)``, relative to the largest coefficient."""
    differences = []
    for end, together in of_sum.coefficients.items():
        apart = sum(each.coefficients[end] for each in samples) + of_random.coefficients[end]
        differences.append(_relative(float((together - apart).abs().max()), float(together.abs().max())))
    return max(differences)


def _relative(difference: float, scale: float) -> float:
    return difference / scale if difference else 0.0


def _dtype(steps: StepByStep, values: Sequence[Any]) -> str:
    tensors = (*steps.program.graph_module.get_submodule(MODEL).parameters(), *values)
    types = dict.fromkeys(str(each.dtype).removeprefix("torch.") for each in tensors if each.is_floating_point())
    return ", ".join(types)

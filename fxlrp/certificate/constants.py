"""The constants of an explanation, by name: biases, shifts of norms, embeddings of positions, numbers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

from torch import fx

from fxlrp.certificate.amounts import Amounts
from fxlrp.certificate.certificate import Constant
from fxlrp.certificate.forward import Forward, frozen_of
from fxlrp.debugging.node_location import NodeLocation
from fxlrp.debugging.step_by_step import NodeFlow, StepByStep
from fxlrp.operation import Family
from fxlrp.program import Program, input_name, operation_under
from fxlrp.provenance import MODEL
from fxlrp.relevance.parameters import declared_parameter_relevance


def constants_of(steps: StepByStep, forward: Forward, samples: Sequence[Amounts]) -> tuple[Constant, ...]:
    """The constants that contribute to a sample, in order of execution.

    Args:
        steps: The explanation.
        forward: The results of the forward program.
        samples: The contributions to the output of each sample.
    """
    found = []
    for flow in reversed(steps.flows):
        if flow.node in forward.constants:
            shares = tuple(each.steps[flow.node].constants for each in samples)
            if any(shares):
                location = NodeLocation.of(flow.node, steps.program.vocabulary)
                found.append(Constant(location, _names(flow, forward, steps.program), shares))
    return tuple(found)


def _names(flow: NodeFlow, forward: Forward, program: Program) -> tuple[str, ...]:
    """The parameters, buffers, inputs and numbers from which the constant of a step is computed."""
    operation = operation_under(flow.operation, flow.annotation.rule)
    if operation.family is Family.ACTIVATION and frozen_of(flow) is not None:
        return (f"{operation.name}(0)",)
    found: dict[str, None] = {}
    for value in flow.added:
        nodes: list[fx.Node] = []
        fx.map_arg(value, nodes.append)
        shown = [node for node in nodes if bool(forward.values[node].any())]
        found.update(dict.fromkeys(name for node in shown for name in _sources(node, program)))
        if isinstance(value, int | float):
            found[f"{value:g}"] = None
    return tuple(found)


def _sources(value: fx.Node, program: Program) -> list[str]:
    """The parameters, buffers and constant inputs from which a value is computed; the value if there are none."""
    waiting, names = [value], []
    for node in waiting:
        waiting.extend(each for each in _read(node) if each not in waiting)
        if node.op == "get_attr":
            names.append(str(node.target).removeprefix(f"{MODEL}."))
        # Other inputs are read for their sizes.
        elif node.op == "placeholder" and input_name(node) in program.options.constants:
            names.append(input_name(node))
    return names or [value.name]


def _read(node: fx.Node) -> Iterator[fx.Node]:
    """The arguments of a node, without those that contribute nothing to its value."""
    declared = declared_parameter_relevance(node.target)
    if not declared or not callable(node.target):
        yield from node.all_input_nodes
        return
    for name, argument in inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments.items():
        if isinstance(argument, fx.Node) and declared.get(name, name) is not None:
            yield argument

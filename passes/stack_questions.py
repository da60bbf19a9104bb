"""Answer several questions with one forward program: the relevance steps run once for all of them.

The steps become a function of the initial relevance and of the conditions, over whose first dimension ``torch.vmap``
maps it. What precedes the first step that depends on them, such as denominators, is computed once.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace

from torch import fx

from fxlrp.graph_parts import part
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program, computed_from, returned_by
from fxlrp.relevance.stacked import over_questions

STEPS = "stacked_steps"


@compiler_pass(needs=["relevance"], after=["share_among_questions", "keep_constants", "checkpoint", "reuse_memory"])
def stack_questions(program: Program) -> int:
    """Move the relevance steps into a function of their own; return how many calls it has."""
    if not program.options.question.stacked:
        return 0
    graph, output = program.graph, program.graph.output_node()
    interface = program.emitted.interface
    returned = returned_by(graph)
    results = (returned if isinstance(returned, tuple) else (returned,))[: len(interface.results)]
    roots = [node for node in graph.nodes if node.name in interface.differing]
    steps = _steps(program, roots)
    read = ({source for node in steps for source in node.all_input_nodes} | set(results)).difference(steps, roots)
    of_inputs = computed_from(graph, lambda node: node.op == "placeholder")
    values = [node for node in graph.nodes if node in read and node in of_inputs]
    constants = [node for node in graph.nodes if node in read and node not in of_inputs]
    program.graph_module.add_module(STEPS, part("StackedSteps", [*roots, *values, *constants], steps, tuple(results)))
    with graph.inserting_before(output):
        function = graph.get_attr(STEPS)
        stacked = graph.call_function(over_questions, (function, tuple(roots), tuple(values), tuple(constants)))
        found = [graph.call_function(operator.getitem, (stacked, index)) for index in range(len(results))]
    for result, node in zip(interface.results, found, strict=True):
        node._rename(f"each_r_{result.value}")
    outputs = (*found, *(returned[len(found) :] if isinstance(returned, tuple) else ()))
    output.args = (outputs[0] if len(outputs) == 1 else outputs,)
    for node in reversed(steps):
        graph.erase_node(node)
    named = zip(interface.results, found, strict=True)
    renamed = replace(interface, results=tuple(replace(each, relevance=node.name) for each, node in named))
    program.emitted = replace(program.emitted, interface=renamed, flows={}, recomputed=frozenset())
    return len(steps)


def _steps(program: Program, roots: Sequence[fx.Node]) -> list[fx.Node]:
    """The calls from the first that depends on a question, without those that compute constants."""
    after = list(program.graph.nodes)[program.questions_start :]
    constant = set(program.emitted.kept)
    for node in reversed(after):
        if node in constant:
            constant.update(node.all_input_nodes)
    excluded = constant.union(roots)
    return [node for node in after if node.op == "call_function" and node not in excluded]

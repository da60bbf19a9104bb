"""Emit the relevance program after the forward one, for use in a backward pass: it explains outputs with gradients.

The initial relevance of an output is its value times its gradient. For ``out[:, c].sum().backward()`` this is the value
of the logit, as in an explanation with ``target=c``. Other computations on the outputs are propagated by LRP-0.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fxlrp.errors import CaptureError
from fxlrp.graph_parts import copied
from fxlrp.interface import Interface, Result
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Emitted, Program, input_name, inputs_among
from fxlrp.propagate import propagate


def times_gradient(value: Tensor, gradient: Tensor) -> Tensor:
    """The initial relevance of an output: zero where the gradient is zero, even for an infinite value."""
    return torch.where(gradient == 0, 0, value * gradient)


def arriving_gradient(value: Tensor, gradient: Tensor) -> Tensor:
    """The gradient that arrives at an output, with which a preset of gradients starts."""
    return gradient.to(value.dtype, copy=True)


@compiler_pass(needs=["annotated", "functional", "no identities"], provides=["relevance"])
def emit_backward(program: Program) -> int:
    """Append a step for every annotated node, and return outputs and relevances; return how many steps there are.

    The graph takes the gradient of each output at which relevance starts, after its inputs. It returns its outputs and
    the relevance of each input, None for an input that no relevance reaches.

    Raises:
        CaptureError: The model changes an input in place.
    """
    if program.facts.changed_inputs:
        names = ", ".join(repr(node.name) for node in program.facts.changed_inputs)
        raise CaptureError(
            f"the model changes its input {names} in place, which fxlrp would hide from the caller: "
            "use an out-of-place operation"
        )
    graph, output = program.graph, program.graph.output_node()
    annotated, forward = copied(graph), list(graph.nodes)
    inputs = inputs_among(forward)
    gradients = _gradients(graph, inputs, [node for node in program.outputs if node in program.facts.dependent])
    initial = arriving_gradient if program.options.preset.starts_with_one else times_gradient
    with graph.inserting_before(output):
        starts = {
            explained: graph.call_function(initial, (explained, gradient)) for explained, gradient in gradients.items()
        }
        ledger = propagate(program, forward, starts)
        relevances = tuple(ledger.relevance(node) for node in inputs)
    output.type = None
    output.args = ((output.args[0], relevances),)
    interface = Interface(
        inputs=tuple(node.name for node in inputs),
        controls={explained.name: gradient.name for explained, gradient in gradients.items()},
        starts={explained.name: start.name for explained, start in starts.items()},
        results=tuple(
            Result(input_name(node), node.name, None if found is None else found.name, found is not None)
            for node, found in zip(inputs, relevances, strict=True)
        ),
    )
    program.emitted = Emitted(annotated, interface, ledger.flows)
    return len(ledger.flows)


def _gradients(graph: fx.Graph, inputs: list[fx.Node], explained: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    made: dict[fx.Node, fx.Node] = {}
    last = inputs[-1]
    for node in explained:
        with graph.inserting_after(last):
            made[node] = last = graph.placeholder(f"gradient_of_{node.name}")
    return made

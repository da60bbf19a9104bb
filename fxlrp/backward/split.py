"""Split a program into a forward part and a relevance part, with saved values between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from fxlrp.arguments import shown
from fxlrp.errors import InputError
from fxlrp.graph_parts import needed_for, part
from fxlrp.program import Program, nodes_by_name, returned_by


@dataclass(frozen=True)
class Split:
    """A program in two parts. Both take parameters as inputs.

    Args:
        forward: ``(*inputs, *parameters) -> (values, saved)``, where each value that is an output occurs once.
        relevance: ``(*saved, *gradients) -> relevances``, one for each input; None where no relevance arrives.
        parameters: The paths of the parameters, buffers and constants, below the root of the program.
        outputs: The index of each output among the values.
        explained: The values at which relevance starts, whose gradients ``relevance`` takes, each with the inputs from
            which it is computed.
    """

    forward: Callable[..., Any]
    relevance: Callable[..., Any]
    parameters: tuple[str, ...]
    outputs: tuple[int, ...]
    explained: Mapping[int, frozenset[int]]

    def compiled(self, compiler: str | Callable[..., Any]) -> Split:
        """Return the program with both parts compiled by ``torch.compile`` with a backend."""
        return replace(self, forward=_compiled(self.forward, compiler), relevance=_compiled(self.relevance, compiler))


def check_compiler(compiler: Any) -> None:
    """Check the argument ``compiler=`` of the public functions.

    Raises:
        InputError: It is not a backend of ``torch.compile``.
    """
    if compiler is None or (callable(compiler) and not isinstance(compiler, type)):
        return
    if not isinstance(compiler, str):
        raise InputError(f"compiler must be a backend of torch.compile, a name or a function, not {shown(compiler)}")
    if compiler not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise InputError(f"torch.compile has no backend {shown(compiler)}; the backends are: {known}")


def _compiled(part: Callable[..., Any], compiler: str | Callable[..., Any]) -> Callable[..., Any]:
    def run(*values: Any) -> Any:
        return part(*values)

    # Inside a compiled function TorchDynamo skips a compiled module, so it is wrapped in a function. TorchDynamo keys
    # what it learns about sizes by the name of the code, so each function has its own name.
    run.__code__ = run.__code__.replace(co_name=f"run_{id(part):x}")
    compiled = torch.compile(run, backend=compiler)

    def run_compiled(*values: Any) -> Any:
        # A function compiled with dynamic=True would make the sizes of weights dynamic too.
        with torch._dynamo.config.patch(assume_static_by_default=True):
            return compiled(*values)

    return run_compiled


def split(program: Program) -> Split:
    """Split ``program``, to which ``emit_backward`` has been applied.

    The forward part computes only the outputs, and saves the values that the relevance part reads. Everything else,
    such as the positive part of a layer, is computed when relevance is requested.
    """
    graph, nodes = program.graph, nodes_by_name(program.graph)
    controls = program.emitted.interface.controls
    gradients = {nodes[explained]: nodes[gradient] for explained, gradient in controls.items()}
    outputs, relevances = returned_by(graph)
    first = [
        index for index, value in enumerate(outputs) if not isinstance(value, fx.Node) or outputs.index(value) == index
    ]
    values = [outputs[index] for index in first]
    needed = needed_for([value for value in values if isinstance(value, fx.Node)])
    given = [node for node in graph.nodes if node.op in ("placeholder", "get_attr") and node not in gradients.values()]
    inputs = [node for node in given if node.op == "placeholder"]
    parameters = [node for node in given if node.op == "get_attr"]
    forward = [node for node in graph.nodes if node.op == "call_function" and node in needed]
    later = [node for node in graph.nodes if node.op == "call_function" and node not in needed]
    read = {source for node in later for source in node.all_input_nodes}
    fx.map_arg(relevances, read.add)
    saved = [node for node in (*given, *forward) if node in read]
    computed = part("Forward", [*inputs, *parameters], forward, (tuple(values), tuple(saved)))
    relevance = part("Relevance", [*saved, *gradients.values()], later, relevances)
    # Called as modules, they would also print the line of the generated code that fails.
    return Split(
        computed.forward,
        relevance.forward,
        tuple(str(node.target) for node in parameters),
        tuple(
            first.index(outputs.index(value) if isinstance(value, fx.Node) else i) for i, value in enumerate(outputs)
        ),
        {
            first.index(outputs.index(node)): frozenset(
                index for index, source in enumerate(inputs) if source in needed_for([node])
            )
            for node in gradients
        },
    )

"""Explanations of parameters, by the passes of an explanation with parameters among the results."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp.capture.symbolic import capture
from fxlrp.interface import Interface, Result
from fxlrp.optimizations import Optimizations
from fxlrp.parameters import reads_of
from fxlrp.passes import pipeline
from fxlrp.passes.base import Pass, compiler_pass, run_passes
from fxlrp.program import Emitted, Options, Program, inputs_among
from fxlrp.propagate import propagate
from fxlrp.rules.resolve import resolve
from fxlrp.vocabulary import CANONICAL


def _emission(paths: Sequence[str]) -> Pass:
    """Emit the relevance of the input and of parameters; the initial relevance is an input."""

    @compiler_pass(needs=["annotated", "functional", "no identities"], provides=["relevance"])
    def emit_relevance(program: Program) -> int:
        graph, output = program.graph, program.graph.output_node()
        forward, annotated = list(graph.nodes), copy.deepcopy(graph)
        inputs, (explained,) = inputs_among(forward), program.outputs
        with graph.inserting_after(inputs[-1]):
            seed = graph.placeholder("seed")
        reads = [reads_of(program, path) for path in paths]
        with graph.inserting_before(output):
            start = graph.call_function(torch.clone, (seed,))
            ledger = propagate(
                program, forward, {explained: start}, parameters=[node for nodes in reads for node in nodes]
            )
            results = [[node] for node in inputs] + [list(nodes) for nodes in reads]
            returned = tuple(
                tuple(relevance for node in nodes if (relevance := ledger.relevance(node)) is not None)
                for nodes in results
            )
        output.args = (returned,)
        names = [Result(node.name, node.name, None, True) for node in inputs]
        interface = Interface(
            tuple(node.name for node in inputs), {"seed": seed.name}, {explained.name: start.name}, tuple(names)
        )
        program.emitted = Emitted(annotated, interface, ledger.flows)
        return len(ledger.flows)

    return emit_relevance


def program_with_parameters(model: nn.Module, rules: Any, paths: Sequence[str], *, optimize: bool = True) -> Program:
    emission = _emission(paths)
    passes = pipeline.explanation(Optimizations.resolve(optimize)).all
    program = Program(capture(model.eval()), CANONICAL, Options(resolve(rules)))
    run_passes(program, [emission if each.name == "emit_relevance" else each for each in passes])
    program.graph_module.recompile()
    return program


def of_parameters(
    model: nn.Module, rules: Any, inputs: Sequence[Tensor], seed: Tensor, *, optimize: bool = True
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The relevance of the inputs, and of every parameter by name; zeros if a parameter receives none."""
    parameters = dict(model.named_parameters())
    program = program_with_parameters(model, rules, list(parameters), optimize=optimize)
    with torch.no_grad():
        returned = program.graph_module(*(each.clone() for each in inputs), seed.clone())
    of_inputs = [parts[0] if parts else torch.zeros_like(x) for x, parts in zip(inputs, returned, strict=False)]
    found = {}
    for (name, parameter), parts in zip(parameters.items(), returned[len(inputs) :], strict=True):
        total = torch.zeros_like(parameter)
        for part in parts:
            assert part.shape == parameter.shape, f"{name}: {tuple(part.shape)} for {tuple(parameter.shape)}"
            assert part.dtype == parameter.dtype, f"{name}: {part.dtype} for {parameter.dtype}"
            total = total + part
        found[name] = total.detach()
    return of_inputs, found

"""Capture a model and run the passes: one program for each request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import fx, nn

from fxlrp import graph_parts
from fxlrp.capture import FrontEnd, capture
from fxlrp.capture.fallback import first_that_follows
from fxlrp.capture.root_module import sharing_tensors
from fxlrp.debugging.logs import PassLog, log_program
from fxlrp.debugging.structured_trace import GraphTrace, timed
from fxlrp.errors import CaptureError, GraphError, SymbolicTraceError
from fxlrp.inputs import Inputs
from fxlrp.passes.base import run_passes
from fxlrp.passes.pipeline import Passes
from fxlrp.program import Observer, Options, Program
from fxlrp.question import Question
from fxlrp.refused_inputs import raise_explained
from fxlrp.request import Request
from fxlrp.signature import Signature


@dataclass(frozen=True)
class Compiled:
    """A program on which all passes have run.

    Args:
        program: The program.
        annotated: A copy of the program before the passes that depend on the question.
        signature: The arguments of a call.
        front_end: The front end that captured the model.
    """

    program: Program
    annotated: Program
    signature: Signature
    front_end: FrontEnd


Observers = Callable[[], tuple[Observer, ...]]


def log_only() -> tuple[Observer, ...]:
    """Return the observers of every program: the log, and the trace."""
    return (PassLog(), GraphTrace())


def compiled(
    model: nn.Module, inputs: Inputs, request: Request, passes: Passes, observers: Observers = log_only
) -> Compiled:
    """Capture a model with the first front end that can follow it, and run the passes.

    Args:
        model: The model.
        inputs: Its inputs.
        request: The request.
        passes: The passes.
        observers: Makes the observers of a program, so that a front end that fails leaves no stages.

    Raises:
        ExamplesNeeded: The front end is ``torch.export``, and there are no example inputs.
        InputError: The model does not take the example inputs, or an input that is declared a constant does not exist.
    """
    inputs.check_constants(request.constants)

    def attempt(front_end: FrontEnd) -> Compiled:
        try:
            return captured_by(front_end)
        except SymbolicTraceError:
            raise  # says nothing about the examples
        except (CaptureError, GraphError) as error:
            if inputs.examples:
                what = "the inputs of its capture (the example inputs, or those of a call)"
                raise_explained(error, model, inputs, [inputs.examples[name] for name in inputs.names], what=what)
            raise

    def captured_by(front_end: FrontEnd) -> Compiled:
        with timed("capture"):
            captured = capture(
                model,
                inputs,
                request.vocabulary,
                front_end=front_end,
                output=request.output,
                dynamic_shapes=request.dynamic_shapes,
                constants=request.constants,
            )
        program = annotated_program(captured.graph_module, inputs, request, passes, observers())
        annotated = copied(program)
        signature = Signature.of(program, list(program.graph.nodes), inputs, captured.guards)
        answer(program, passes)
        return Compiled(program, annotated, signature, front_end)

    return first_that_follows(request.front_ends, attempt, inputs)


def annotated_program(
    graph_module: fx.GraphModule,
    inputs: Inputs,
    request: Request,
    passes: Passes,
    observers: tuple[Observer, ...],
) -> Program:
    """Run the passes up to the annotated graph on a captured graph."""
    options = Options(
        request.preset,
        request.question,
        segments=request.segments or 0,
        examples=inputs.specs,
        constants=frozenset(request.constants),
        differentiable=request.differentiable,
    )
    program = Program(graph_module, request.vocabulary, options, observers=observers)
    program.tell("capture", len(program.graph.nodes))
    run_passes(program, passes.to_annotate)
    return program


def answer(program: Program, passes: Passes) -> Program:
    """Run the passes that depend on the question of an annotated program; return the program."""
    run_passes(program, passes.to_answer)
    log_program(program.graph_module)
    return program


def answered(annotated: Program, question: Question, passes: Passes) -> Program:
    """Return the program that answers another question to an annotated graph.

    Args:
        annotated: The annotated program, which is not changed.
        question: The question.
        passes: The passes.
    """
    program = copied(annotated)
    program.options = replace(program.options, question=question)
    program.observers = log_only()
    return answer(program, passes)


def copied(program: Program) -> Program:
    """Return a copy of a program on the same model, without observers."""
    nodes: dict[fx.Node, fx.Node] = {}
    graph = graph_parts.copied(program.graph, nodes)
    return replace(
        program,
        graph_module=sharing_tensors(program.graph_module, graph),
        facts=program.facts.on(nodes),
        properties=set(program.properties),
        observers=(),
    )

"""The program that answers a question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from fxlrp.cached_constants import ProgramWithConstants, can_be_watched
from fxlrp.capture.root_module import on_other_model
from fxlrp.debugging.structured_trace import timed
from fxlrp.generated_code import generate_code
from fxlrp.interface import Interface
from fxlrp.on_devices import program_on_devices
from fxlrp.program import Program
from fxlrp.question import Question


@dataclass(frozen=True)
class Answer:
    """A generated program, and the question that it answers.

    Args:
        question: The question.
        graph_module: The program. If there is one that keeps values, its code is generated when somebody asks for it.
        keeping: The program that keeps what depends on parameters alone between calls; None if nothing does.
        interface: The inputs and results of the program.
        annotated: The annotated graph from which the program was made.
    """

    question: Question
    graph_module: fx.GraphModule
    keeping: ProgramWithConstants | None
    interface: Interface
    annotated: fx.Graph

    @staticmethod
    def of(program: Program) -> Answer:
        """Return the answer that a compiled program gives."""
        emitted = program.emitted
        with timed("generate_code"):
            keeping = ProgramWithConstants.of(program.graph_module, emitted.kept)
            if keeping is None:
                generate_code(program.graph_module)
        return Answer(program.options.question, program.graph_module, keeping, emitted.interface, emitted.annotated)

    def on(self, model: nn.Module) -> Answer:
        """Return the same answer on another copy of the model."""
        keeping = None if self.keeping is None else self.keeping.on(model)
        return replace(self, graph_module=on_other_model(self.graph_module, model), keeping=keeping)

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes, in order of execution."""
        return tuple(node for node in self.annotated.nodes if node.op != "output")

    def program(self) -> Callable[..., Any]:
        """The program that keeps values, or recomputes them where a change of a parameter could not be detected."""
        if self.keeping is None:
            # Not called as a module, which would print the line of the generated code that fails.
            return self.graph_module.forward
        return self.keeping if can_be_watched() else self.keeping.recomputing

    def run(self, values: Sequence[Tensor], controls: Mapping[str, Any]) -> Any:
        """Run the program.

        Args:
            values: The inputs, in order.
            controls: The target, the seed and the conditions, by name.
        """
        program = program_on_devices(values, self.graph_module) or self.program()
        return program(*self.interface.arguments(values, controls))

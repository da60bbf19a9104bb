"""What an explainer keeps of a compilation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from fxlrp.absence import absences
from fxlrp.cached_constants import ProgramWithConstants, can_be_watched
from fxlrp.capture.lock import is_compiling
from fxlrp.debugging.stages import Stages
from fxlrp.debugging.step_by_step import StepByStep
from fxlrp.interface import Interface
from fxlrp.program import Options
from fxlrp.provenance import MODEL
from fxlrp.recipe.recipe import Recipe
from fxlrp.refused_inputs import CapturedGraph, ExplainedFailures
from fxlrp.signature import Signature
from fxlrp.vocabulary.lookup import Vocabulary


@dataclass(frozen=True)
class Explanation:
    """The results of a compilation that an explainer keeps.

    Args:
        graph_module: The generated program.
        constants: The program with its constants kept between calls; None if it has no constants.
        interface: The inputs and results of the program.
        signature: The arguments that a call accepts.
        annotated: The annotated graph from which the program was made.
        vocabulary: The operations in the graph.
        options: The options of the request.
        removed: The modules whose operations are no longer in the graph, by path: the reason.
        recipe: How the program was made.
        stages: The stages of the compilation, if they were kept.
    """

    graph_module: fx.GraphModule
    constants: ProgramWithConstants | None
    interface: Interface
    signature: Signature
    annotated: fx.Graph
    vocabulary: Vocabulary
    options: Options
    removed: Mapping[str, str]
    recipe: Recipe
    stages: Stages | None

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes, in order of execution."""
        return tuple(node for node in self.annotated.nodes if node.op != "output")

    def run(self, values: Sequence[Tensor], controls: Mapping[str, Any]) -> Any:
        """Run the program.

        Args:
            values: The inputs, as :meth:`bind` returns them.
            controls: The target and the seed, by name.

        Raises:
            InputError: The model does not take the inputs, or the target or the seed does not fit.
        """
        arguments = self.interface.arguments(values, controls)
        if is_compiling():
            return self.program()(*arguments)
        with self.explained_failures(values):
            return self.program()(*arguments)

    def explained_failures(self, values: Sequence[Tensor]) -> ExplainedFailures:
        """The context of a run on inputs: its errors name the inputs that the model refuses, and where."""
        captured = CapturedGraph(self.graph_module, self.annotated)
        return ExplainedFailures(self.graph_module.get_submodule(MODEL), self.signature.inputs, values, captured)

    def program(self) -> Callable[..., Any]:
        """The program with kept constants, or without them where a change of a parameter could not be detected."""
        # Not called as a module, which would print the line of the generated code that fails.
        return self.graph_module.forward if self.constants is None or not can_be_watched() else self.constants

    def absent(self) -> dict[str, str]:
        """The names in the model that no node has, with the reasons."""
        return absences(self.graph_module, self.annotated.nodes, self.removed)

    def step_by_step(self) -> StepByStep:
        """The program without optimizations, for a run node by node."""
        return StepByStep.of(self.graph_module, self.annotated, self.vocabulary, self.options)

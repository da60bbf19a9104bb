"""What an explainer keeps of a compilation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from fxlrp.absence import Names, absences
from fxlrp.answer import Answer
from fxlrp.capture.lock import ONE_CAPTURE, is_compiling
from fxlrp.capture.root_module import on_other_model
from fxlrp.debugging.stages import Stages
from fxlrp.debugging.step_by_step import StepByStep
from fxlrp.debugging.structured_trace import timed
from fxlrp.driver import answered
from fxlrp.errors import InputError
from fxlrp.interface import Interface
from fxlrp.passes.pipeline import Passes
from fxlrp.places import Places
from fxlrp.program import Program
from fxlrp.provenance import MODEL
from fxlrp.question import Question
from fxlrp.recipe.recipe import Recipe
from fxlrp.refused_inputs import CapturedGraph, ExplainedFailures
from fxlrp.signature import Signature
from fxlrp.vocabulary.lookup import Vocabulary

# Every program keeps its own constants, so the programs that are kept are limited.
_KEPT = 16


@dataclass(frozen=True)
class Explanation:
    """The results of a compilation that an explainer keeps.

    Args:
        answers: The programs, each with its question. The first answers the question of the compilation.
        program: The annotated program, from which the programs for other questions are made.
        passes: The passes that make them.
        signature: The arguments that a call accepts.
        recipe: How the program was made.
        stages: The stages of the compilation, if they were kept.
    """

    answers: list[Answer]
    program: Program
    passes: Passes
    signature: Signature
    recipe: Recipe
    stages: Stages | None

    def on(self, model: nn.Module) -> Explanation:
        """Return the same explanation of another copy of the model."""
        program = replace(self.program, graph_module=on_other_model(self.program.graph_module, model))
        return replace(self, answers=[each.on(model) for each in self.answers], program=program)

    @property
    def main(self) -> Answer:
        """The answer to the question of the compilation."""
        return self.answers[0]

    @property
    def vocabulary(self) -> Vocabulary:
        """The operations in the graph."""
        return self.program.vocabulary

    @property
    def programs(self) -> tuple[fx.GraphModule, ...]:
        """Every program on the model."""
        return (self.program.graph_module, *(each.graph_module for each in self.answers))

    @property
    def graph_module(self) -> fx.GraphModule:
        """The program of the question of the compilation."""
        return self.main.graph_module

    @property
    def interface(self) -> Interface:
        """The inputs and results of this program."""
        return self.main.interface

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes, in order of execution."""
        return self.main.nodes

    def answer(self, question: Question) -> Answer:
        """Return the program for a question, which is made once.

        Raises:
            InputError: A name of the question does not exist, or the program is compiled while it does not exist.
        """
        found = self._known(question)
        if found is not None:
            return found
        if is_compiling():
            raise InputError(
                "there is no program for this question yet, and none can be made while the explainer is compiled or "
                "exported: ask it once before"
            )
        with ONE_CAPTURE:
            found = self._known(question)
            if found is None:
                with timed("answer"):
                    found = Answer.of(answered(self.program, question, self.passes))
                self.answers[1:] = [*self.answers[1:][1 - _KEPT :], found]
            return found

    def _known(self, question: Question) -> Answer | None:
        return next((each for each in self.answers if each.question == question), None)

    def run(self, answer: Answer, values: Sequence[Tensor], controls: Mapping[str, Any]) -> Any:
        """Run the program of an answer.

        Args:
            answer: The answer.
            values: The inputs, as :meth:`bind` returns them.
            controls: The target, the seed and the conditions, by name.

        Raises:
            InputError: The model does not take the inputs, or the target or the seed does not fit.
        """
        if is_compiling():
            return answer.run(values, controls)
        with self.explained_failures(answer, values):
            return answer.run(values, controls)

    def explained_failures(self, answer: Answer, values: Sequence[Tensor]) -> ExplainedFailures:
        """The context of a run on inputs: its errors name the inputs that the model refuses, and where."""
        captured = CapturedGraph(answer.graph_module, answer.annotated)
        return ExplainedFailures(answer.graph_module.get_submodule(MODEL), self.signature.inputs, values, captured)

    def names(self) -> Names:
        """The names in the model that are not those of nodes."""
        absent = absences(self.graph_module, self.main.annotated.nodes, self.program.facts.removed)
        return Names(absent, Places(self.program).others())

    def step_by_step(self, question: Question) -> StepByStep:
        """The program for a question without optimizations, for a run node by node."""
        options = replace(self.program.options, question=question)
        answer = self.answer(question)
        return StepByStep.of(answer.graph_module, answer.annotated, self.vocabulary, options)

"""The explainer: what :func:`fxlrp.compile` returns."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp import deploy
from fxlrp.balance import Balance, measure
from fxlrp.cached_constants import ProgramWithConstants, can_be_watched
from fxlrp.capture import DynamicShapes, FrontEnd, Sizes
from fxlrp.capture.outputs import follow
from fxlrp.debugging.relevances import Relevances, relevances
from fxlrp.debugging.stage_checks import StageChecks, check
from fxlrp.debugging.stages import Stages
from fxlrp.debugging.step_by_step import StepByStep
from fxlrp.errors import InputError
from fxlrp.expected import Expected
from fxlrp.printing import code, table
from fxlrp.program import Program, annotation
from fxlrp.provenance import MODEL
from fxlrp.recipe.recipe import Recipe, digest
from fxlrp.relevance.initial_relevance import Seed, Target
from fxlrp.shapes import InputSpec, infer_shapes


class Explainer(nn.Module):
    """Explains a model's outputs by the relevance of its inputs.

    Holds the model itself, not a copy: it follows every change of the weights, and moving it moves the model.
    Made by :func:`fxlrp.compile`.
    """

    def __init__(
        self,
        program: Program,
        annotated: fx.Graph,
        recipe: Recipe,
        sizes: Sizes | None = None,
        *,
        stages: Stages | None = None,
    ) -> None:
        """Wrap a generated program.

        Args:
            program: The program.
            annotated: The annotated graph that it was made from.
            recipe: How the program was made.
            sizes: The sizes of inputs for which the program is right, if not all.
            stages: The stages of its compilation, if they were kept.
        """
        super().__init__()
        self.training = False
        self.graph_module = program.graph_module
        self._annotated = annotated
        self._vocabulary = program.vocabulary
        inputs = recipe.inputs
        self._inputs, self._sizes, self._at = inputs, sizes, program.at
        self._stages, self._recipe = stages, recipe
        self._expected = Expected.of(self.nodes, program, inputs)
        self._seen = inputs.specs or None
        self._with_constants = (
            ProgramWithConstants(program.graph_module, program.constants) if program.constants else None
        )

    def forward(
        self, *inputs: Tensor, target: Target = None, seed: Seed = None, **named: Any
    ) -> Tensor | tuple[Tensor, ...]:
        """The relevance of every floating-point input, and of every token, for the explained output.

        Args:
            inputs: The model's inputs, ``(batch, ...)`` each.
            named: Inputs by the names of the model's arguments.
            target: Which output to explain: an int, a LongTensor of one index for each sample, or a tuple of
                indices for an output with several dimensions; None explains each sample's largest output.
            seed: The initial relevance itself, shaped like the output, or a function of the output. Without it
                the initial relevance is the explained output's value, so that the inputs' relevance sums to it.

        Returns:
            A tensor shaped like the input, or a tuple of them for a model with several inputs. Integers that select
            rows of an embedding have one relevance for each token; masks and other integers have none.

        Raises:
            InputError: An input, the target or the seed does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> explain = fxlrp.compile(model)
            >>> explain(torch.ones(2, 4), target=1).shape
            torch.Size([2, 4])
        """
        values = self._inputs.arrange(inputs, named)
        self._check(values)
        if not torch.compiler.is_compiling():
            self._seen = tuple(InputSpec.of(value) for value in values)
        program = self._program()
        with torch.no_grad():
            relevance: Tensor | tuple[Tensor, ...] = program(*values, target, seed)
        if isinstance(relevance, Tensor):
            return relevance
        shown = zip(relevance, values, self._expected.tokens, strict=True)
        explained = tuple(r for r, x, is_token in shown if is_token or x.is_floating_point())
        return explained if len(explained) > 1 else explained[0]

    def _program(self) -> Callable[..., Any]:
        """The program with its constants kept, except where nothing would tell that a parameter has changed."""
        return self.graph_module if self._with_constants is None or not can_be_watched() else self._with_constants

    def balance(self, *inputs: Tensor, target: Target = None, seed: Seed = None, **named: Any) -> Balance:
        """At which nodes the explanation creates or absorbs relevance; the arguments are those of an explanation.

        A bias, a stabilizer and the Taylor rule of softmax absorb relevance by design; what else shows is a rule that
        does not conserve.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> balance = fxlrp.compile(model, rules="epsilon").balance(torch.ones(2, 4), target=1)
            >>> [leak.node for leak in balance.leaks(tolerance=1e3)]
            []
        """
        values = self._inputs.arrange(inputs, named)
        self._check(values)
        return measure(self._step_by_step(), values, (target, seed))

    def debug(
        self, *inputs: Tensor, target: Target = None, seed: Seed = None, keep: bool = False, **named: Any
    ) -> Relevances:
        """Step through the explanation: the relevance of every node, and where NaN or infinity first appears.

        The program is run without optimizations, as written in the annotated graph.

        Args:
            inputs: As for an explanation.
            target: As for an explanation.
            seed: As for an explanation.
            keep: Whether to keep the relevance itself of every node, which takes the memory of all of it.
            named: As for an explanation.

        Raises:
            InputError: An input, the target or the seed does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> relevances = fxlrp.compile(model).debug(torch.ones(2, 4), target=1, keep=True)
            >>> relevances["_1"].relevance.shape
            torch.Size([2, 8])
            >>> relevances.first_bad is None
            True
        """
        values = self._inputs.arrange(inputs, named)
        self._check(values)
        return relevances(self._step_by_step(), values, (target, seed), keep=keep)

    def _step_by_step(self) -> StepByStep:
        return StepByStep.of(self.graph_module, self._annotated, self._vocabulary, self._at)

    @property
    def stages(self) -> Stages:
        """The captured graph and the graph after every pass, for an explainer compiled with ``debug=True``.

        Raises:
            InputError: The stages were not kept.
        """
        if self._stages is None:
            raise InputError("the stages were not kept: compile with fxlrp.compile(..., debug=True)")
        return self._stages

    def check_stages(self, *inputs: Tensor, target: Target = None, seed: Seed = None, **named: Any) -> StageChecks:
        """Run every stage of the compilation, and say which pass changed what is computed, and by how much.

        As long as there are no relevance steps a stage must compute the model's own output, then the relevance
        that the first steps gave. The arguments are those of an explanation.

        Raises:
            InputError: The stages were not kept, or the model is in training mode.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> fxlrp.compile(model, debug=True).check_stages(torch.ones(2, 4)).wrong()
            ()
        """
        stages, model = self.stages, self._model
        values = self._inputs.arrange(inputs, named)
        self._check(values)
        if any(module.training for module in model.modules()):
            raise InputError("the model is in training mode: call model.eval() first")
        with torch.no_grad():
            output = follow(self._inputs.call(model, [value.clone() for value in values]), self._recipe.output)
        return check(stages, self.graph_module, values, (target, seed), output)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write how the explainer was made as JSON: rules, options and a fingerprint of the model, but no code.

        :func:`fxlrp.load` makes the explainer again, for the same model.

        Raises:
            RecipeError: A selector is a function, or a dynamic shape has a name of its own.

        Example:
            >>> import tempfile, torch, fxlrp
            >>> model = torch.nn.Linear(4, 3).eval()
            >>> path = tempfile.mkdtemp() + "/explain.json"
            >>> fxlrp.compile(model).save(path)
            >>> fxlrp.load(path, model)(torch.ones(2, 4), target=1).shape
            torch.Size([2, 4])
        """
        self._recipe.save(path, self._model, self.digest())

    def digest(self) -> str:
        """A fingerprint of the annotated graph: explainers that share it explain alike, given the same weights."""
        return digest(self.nodes, self.graph_module)

    @property
    def _model(self) -> nn.Module:
        """The user's model."""
        model: nn.Module = self.graph_module.get_submodule(MODEL)
        return model

    def export(
        self,
        path: str | os.PathLike[str],
        example_inputs: deploy.Examples,
        *,
        format: deploy.Format = "export",
        target: deploy.ExportTarget = "input",
        dynamic_shapes: DynamicShapes = None,
    ) -> None:
        """Write the explanation as a file that runs without fxlrp, for every batch size.

        The file holds the weights as they are now. Its inputs are the model's and, by default, the target; it returns
        what an explanation returns.

        Args:
            path: Where to write it: ``.pt2``, or ``.onnx`` for ONNX.
            example_inputs: An input, a sequence of them, or a mapping from the names of the model's arguments to
                inputs and constants. Their types are those of the file's inputs, and so are their sizes, except
                for the batch.
            format: "export" for ``torch.export.load``; "aoti" for a package compiled by AOTInductor for this kind of
                machine; "onnx" for ONNX runtimes.
            target: "input": the file takes the target behind the model's inputs, a LongTensor of one index for each
                sample. An int, a tuple of indices or "largest" (None, each sample's largest output) is built in.
            dynamic_shapes: Which sizes are open, in the form of ``torch.export`` by the input's name. A dict of
                dimensions adds to the open batch, unless it has an entry for dimension 0.

        Raises:
            ExportError: The explanation cannot be written as what was asked for.
            InputError: An example input or the target does not fit.
            ImportError: A package is not installed that ONNX needs.

        Example:
            >>> import tempfile, torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> path = tempfile.mkdtemp() + "/explain.pt2"
            >>> fxlrp.compile(model).export(path, torch.ones(1, 4))
            >>> torch.export.load(path).module()(torch.ones(5, 4), torch.tensor([0, 1, 2, 1, 0])).shape
            torch.Size([5, 4])
        """
        inputs = deploy.with_examples(self._inputs, example_inputs)
        self._check(tuple(inputs.examples.values()))
        rules = deploy.rules_of(self.nodes, self._vocabulary)
        name = type(self.graph_module).__name__
        explanation = deploy.Explanation(self.graph_module, inputs, self._expected.tokens, self._sizes, name, rules)
        deploy.write(explanation, path, format=format, target=target, dynamic_shapes=dynamic_shapes)

    def train(self, mode: bool = True) -> Explainer:
        """Change nothing: what is explained is the model in eval mode, and the model keeps the mode that it has."""
        return self

    def _check(self, values: tuple[Any, ...]) -> None:
        self._expected.check(values, next(self.graph_module.parameters(), None))
        if self._sizes is not None:
            self._sizes.check(values)

    @property
    def front_end(self) -> FrontEnd:
        """Which front end has captured the model."""
        return "symbolic" if self._sizes is None else "export"

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes that the program was made from, in order of execution."""
        return tuple(node for node in self._annotated.nodes if node.op != "output")

    @property
    def code(self) -> str:
        """The generated program as Python source."""
        return code.program_text(self.graph_module)

    def table(self, *, constants: bool = False) -> str:
        """The annotated graph as a table: every node with its rule and why it has it.

        Args:
            constants: Whether parameters, and what is computed from them alone, have rows too.
        """
        shapes = infer_shapes(self.graph_module, self._annotated, self._seen) if self._seen else {}
        return table.render(self.nodes, self._vocabulary, shapes, constants=constants)

    def __str__(self) -> str:
        """The annotated graph as a table."""
        return self.table()

    def __repr__(self) -> str:
        """One line: the model and how many steps its explanation has."""
        steps = sum(annotation(node) is not None for node in self.nodes)
        return f"Explainer({type(self.graph_module).__name__}, {steps} relevance steps)"

"""The explainer: what :func:`fxlrp.compile` returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp import deploy
from fxlrp.balance import Balance
from fxlrp.cached_constants import ProgramWithConstants, can_be_watched
from fxlrp.capture import DynamicShapes, FrontEnd
from fxlrp.capture.outputs import follow
from fxlrp.debugging.relevances import Relevances, relevances
from fxlrp.debugging.stage_checks import StageChecks, check
from fxlrp.debugging.stages import Stages
from fxlrp.debugging.step_by_step import StepByStep
from fxlrp.errors import InputError
from fxlrp.first_call import MadeOnInputs
from fxlrp.inputs import Inputs, as_call
from fxlrp.interface import Interface
from fxlrp.printing import code, table
from fxlrp.program import Options, annotation
from fxlrp.provenance import MODEL
from fxlrp.recipe.recipe import Recipe, digest
from fxlrp.relevance.initial_relevance import Seed, Target
from fxlrp.shapes import InputSpec, infer_shapes
from fxlrp.signature import Signature
from fxlrp.vocabulary.lookup import Vocabulary


@dataclass(frozen=True)
class Explanation:
    """What an explainer keeps of a compilation.

    Args:
        graph_module: The generated program.
        constants: The program with its constants kept between calls; None if it has none.
        interface: What the program takes and gives.
        signature: What a call may pass.
        annotated: The annotated graph that the program was made from.
        vocabulary: The operations in it.
        options: What was asked for.
        recipe: How the program was made.
        stages: The stages of its compilation, if they were kept.
    """

    graph_module: fx.GraphModule
    constants: ProgramWithConstants | None
    interface: Interface
    signature: Signature
    annotated: fx.Graph
    vocabulary: Vocabulary
    options: Options
    recipe: Recipe
    stages: Stages | None

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes, in order of execution."""
        return tuple(node for node in self.annotated.nodes if node.op != "output")

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """The values of a call, checked, in the order of the program's inputs."""
        return self.signature.bind(args, kwargs, next(self.graph_module.parameters(), None))

    def program(self) -> Callable[..., Any]:
        """The program with its constants kept, except where nothing would tell that a parameter has changed."""
        return self.graph_module if self.constants is None or not can_be_watched() else self.constants

    def step_by_step(self) -> StepByStep:
        """The program without optimizations, to be run node by node."""
        return StepByStep.of(self.graph_module, self.annotated, self.vocabulary, self.options)


class _Uncaptured(nn.Module):
    """Holds a model in the place of the program that is not there yet."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.add_module(MODEL, model)


class Explainer(nn.Module):
    """Explains a model's outputs by the relevance of its inputs.

    Holds the model itself, not a copy: it follows every change of the weights, and moving it moves the model.
    Made by :func:`fxlrp.compile`. Where the model needs example inputs and has none, it is captured at the first call.
    """

    def __init__(self, model: nn.Module, make: Callable[[nn.Module, Inputs], Explanation], examples: Any) -> None:
        """Compile ``model``, or wait for the first call.

        Args:
            model: The model.
            make: Compiles it for its inputs.
            examples: The example inputs; None for those of the first call, if the model needs any.
        """
        super().__init__()
        self.training = False
        self._explanation = MadeOnInputs(make, model, examples)
        self._seen: tuple[InputSpec, ...] | None = None
        # Whatever moves or casts the explainer moves the model, also before it is captured.
        self._modules["graph_module"] = _Uncaptured(model)
        if self._explanation.is_made:
            made = self._explanation.require("the explanation")
            self._seen = made.signature.inputs.specs or None
            self._modules["graph_module"] = made.graph_module

    def _on_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Explanation:
        """The explanation; the model is captured on the inputs of this call if it is the first."""
        if self._explanation.is_made:
            return self._explanation.require("the explanation")
        made = self._explanation.on_call(self._model, args, kwargs)
        self._modules["graph_module"] = made.graph_module
        return made

    @property
    def _model(self) -> nn.Module:
        """The user's model."""
        root = self._modules["graph_module"]
        assert root is not None
        return root.get_submodule(MODEL)

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
        made = self._on_call(inputs, named)
        values = made.bind(inputs, named)
        if not torch.compiler.is_compiling():
            self._seen = tuple(InputSpec.of(value) for value in values)
        with torch.no_grad():
            returned = made.program()(*made.interface.arguments(values, {"target": target, "seed": seed}))
        explained = made.signature.explained(values, made.interface.by_name(returned))
        return explained if len(explained) > 1 else explained[0]

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
        return Balance.of(self.debug(*inputs, target=target, seed=seed, **named))

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
        made = self._on_call(inputs, named)
        values = made.bind(inputs, named)
        return relevances(made.step_by_step(), values, {"target": target, "seed": seed}, keep=keep)

    @property
    def stages(self) -> Stages:
        """The captured graph and the graph after every pass, for an explainer compiled with ``debug=True``.

        Raises:
            InputError: The stages were not kept.
        """
        stages = self._explanation.require("which stages there were").stages
        if stages is None:
            raise InputError("the stages were not kept: compile with fxlrp.compile(..., debug=True)")
        return stages

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
        made, model = self._on_call(inputs, named), self._model
        stages, values = self.stages, made.bind(inputs, named)
        if any(module.training for module in model.modules()):
            raise InputError("the model is in training mode: call model.eval() first")
        with torch.no_grad():
            returned = made.signature.inputs.call(model, [value.clone() for value in values])
        arguments = made.interface.arguments(values, {"target": target, "seed": seed})
        return check(stages, made.graph_module, values, arguments, follow(returned, made.recipe.output))

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
        recipe = self._explanation.require("the recipe").recipe
        recipe.save(path, self._model, self.digest())

    def digest(self) -> str:
        """A fingerprint of the annotated graph: explainers that share it explain alike, given the same weights."""
        return digest(self.nodes, self.graph_module)

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
        made = self._on_call(*as_call(example_inputs))
        signature = made.signature.with_examples(example_inputs)
        made.bind(tuple(signature.inputs.examples.values()), {})
        explanation = deploy.Exportable(
            made.graph_module, made.interface, signature, deploy.rules_of(made.nodes, made.vocabulary)
        )
        deploy.write(explanation, path, format=format, target=target, dynamic_shapes=dynamic_shapes)

    def train(self, mode: bool = True) -> Explainer:
        """Change nothing: what is explained is the model in eval mode, and the model keeps the mode that it has."""
        return self

    def __getattr__(self, name: str) -> Any:
        """Say why a property is missing before the model is captured; modules look for submodules here."""
        if name in vars(Explainer) and not self._explanation.is_made:
            self._explanation.require(f"{name!r}")
        return super().__getattr__(name)

    @property
    def graph_module(self) -> fx.GraphModule:
        """The generated program, an ordinary ``torch.fx`` graph on the live model."""
        return self._explanation.require("the program").graph_module

    @property
    def front_end(self) -> FrontEnd:
        """Which front end has captured the model."""
        return self._explanation.require("the front end").recipe.front_end

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes that the program was made from, in order of execution."""
        return self._explanation.require("the annotated graph").nodes

    @property
    def code(self) -> str:
        """The generated program as Python source."""
        return code.program_text(self.graph_module)

    def table(self, *, constants: bool = False) -> str:
        """The annotated graph as a table: every node with its rule and why it has it.

        Args:
            constants: Whether parameters, and what is computed from them alone, have rows too.
        """
        made = self._explanation.require("the annotated graph")
        shapes = infer_shapes(made.graph_module, made.annotated, self._seen) if self._seen else {}
        return table.render(made.nodes, made.vocabulary, shapes, constants=constants)

    def __str__(self) -> str:
        """The annotated graph as a table; one line before the model is captured."""
        return self.table() if self._explanation.is_made else repr(self)

    def __repr__(self) -> str:
        """One line: the model and how many steps its explanation has."""
        name = type(self._model).__name__
        if not self._explanation.is_made:
            return f"Explainer({name}, captured at the first call)"
        steps = sum(annotation(node) is not None for node in self.nodes)
        return f"Explainer({name}, {steps} relevance steps)"

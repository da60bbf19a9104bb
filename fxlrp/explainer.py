"""The explainer, which :func:`fxlrp.compile` returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxlrp import deploy
from fxlrp.balance import Balance
from fxlrp.capture import DynamicShapes, FrontEnd
from fxlrp.capture.lock import is_compiling
from fxlrp.capture.outputs import follow
from fxlrp.capture.root_module import CONSTANTS
from fxlrp.debugging.relevances import Relevances, relevances
from fxlrp.debugging.stage_checks import StageChecks, check
from fxlrp.debugging.stages import Stages
from fxlrp.errors import ExportError, InputError
from fxlrp.explanation import Explanation
from fxlrp.first_call import MadeOnInputs
from fxlrp.inputs import Inputs, as_call
from fxlrp.printing import code, table
from fxlrp.program import annotation
from fxlrp.provenance import MODEL
from fxlrp.recipe.recipe import digest
from fxlrp.refused_inputs import raise_explained
from fxlrp.relevance.initial_relevance import Seed, Target
from fxlrp.relevance.sizes import OtherSizesError
from fxlrp.shapes import InputSpec, infer_shapes


class _Uncaptured(nn.Module):
    """Holds the model until there is a program."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.add_module(MODEL, model)


class Explainer(nn.Module):
    """Explains the outputs of a model by the relevance of its inputs.

    An explainer is made by :func:`fxlrp.compile`. It holds the model itself, not a copy, so it follows every change of
    the weights, and moving it moves the model. If capture needs example inputs and there are none, the model is
    captured at the first call.
    """

    def __init__(self, model: nn.Module, make: Callable[[nn.Module, Inputs], Explanation], examples: Any) -> None:
        """Compile ``model`` now, or at the first call.

        Args:
            model: The model.
            make: Compiles the model for its inputs.
            examples: The example inputs. None means the inputs of the first call, if capture needs any.
        """
        super().__init__()
        self.training = False
        self._explanation = MadeOnInputs(make, model, examples)
        self._seen: tuple[InputSpec, ...] | None = None
        # Moving or casting the explainer moves or casts the model, also before it is captured.
        self._modules["graph_module"] = _Uncaptured(model)
        if self._explanation.is_made:
            made = self._explanation.require("the explanation")
            self._seen = made.signature.inputs.specs or None
            self._modules["graph_module"] = made.graph_module

    def _on_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Explanation, tuple[Tensor, ...]]:
        """The explanation that takes a call, and its inputs in order. If there is none, the model is captured."""
        made, values = self._explanation.on_call(self._model, args, kwargs)
        if not is_compiling():
            self._modules["graph_module"] = made.graph_module
            self._seen = tuple(InputSpec.of(value) for value in values)
        return made, values

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Explainer:
        """Move or cast the model, and the constants of every program."""
        moved: Explainer = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for made in self._explanation.all:
            if made.graph_module is not self._modules["graph_module"]:
                made.graph_module.get_submodule(CONSTANTS)._apply(fn)
        return moved

    @property
    def _model(self) -> nn.Module:
        """The user's model."""
        root = self._modules["graph_module"]
        assert root is not None
        return root.get_submodule(MODEL)

    def forward(
        self, *inputs: Any, target: Target = None, seed: Seed = None, **named: Any
    ) -> Tensor | dict[str, Tensor]:
        """Compute the relevance of every floating-point input, and of every token, for the explained output.

        Args:
            inputs: The inputs of the model, each of shape ``(batch, ...)``, or containers of them.
            named: Inputs by the names of the model's arguments.
            target: The output to explain: an integer, one integer for each sample (a list, an array or an integer
                tensor), or for an output with several dimensions a tuple with one of these for each dimension after the
                batch. In a tuple, a slice selects a region and ``...`` a whole dimension; a tensor of shape
                ``(batch, dimensions)`` is the same as a tuple of its columns. Negative integers count from the end.
                None explains the largest output of each sample; if the output has a class for each token of an input,
                as that of a language model, the largest output of the last position.
            seed: The initial relevance, as a tensor shaped like the output or as a function of the output. By default
                it is the value of the explained output, so that the relevance of the inputs sums to that value, except
                for what biases, stabilizers and rules that do not conserve relevance absorb.

        Returns:
            A tensor shaped like the input. For a model with several inputs that are explained, a dict of such tensors
            by the name of the input. Integers that select rows of an embedding have one relevance for each token. Other
            integers, truth values and the inputs in ``constants`` are not explained, and are not in the dict.

        Raises:
            InputError: An input, the target or the seed does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> explain = fxlrp.compile(model)
            >>> explain(torch.ones(2, 4), target=1).shape
            torch.Size([2, 4])
        """
        with torch.no_grad():
            made, values, returned = self._run(inputs, named, {"target": target, "seed": seed})
        return made.signature.by_name(values, made.interface.by_name(returned))

    def _run(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], controls: Mapping[str, Any]
    ) -> tuple[Explanation, tuple[Tensor, ...], Any]:
        """Run a program, or one that is made for this call if a derived step is not valid for its sizes."""
        made, values = self._on_call(args, kwargs)
        if is_compiling():
            return made, values, made.run(values, controls)
        for _ in self._explanation.all:
            try:
                return made, values, made.run(values, controls)
            except OtherSizesError:
                self._explanation.refuse(made, values)
            made, values = self._on_call(args, kwargs)
        return made, values, made.run(values, controls)

    def balance(self, *inputs: Tensor, target: Target = None, seed: Seed = None, **named: Any) -> Balance:
        """Find the nodes at which the explanation creates or absorbs relevance.

        Biases, stabilizers and the Taylor rule of softmax absorb relevance by design. Any other node with a difference
        has a rule that does not conserve relevance.

        Args:
            inputs: As for :meth:`forward`.
            target: As for :meth:`forward`.
            seed: As for :meth:`forward`.
            named: As for :meth:`forward`.

        Returns:
            The balance of every node.

        Raises:
            InputError: An input, the target or the seed does not fit.

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

        The program runs without optimizations, one step for each node of the annotated graph.

        Args:
            inputs: As for :meth:`forward`.
            target: As for :meth:`forward`.
            seed: As for :meth:`forward`.
            keep: Whether to keep the relevance tensor of every node. This needs memory for all of them.
            named: As for :meth:`forward`.

        Returns:
            The relevance of every node, from the output back.

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
        made, values = self._on_call(inputs, named)
        controls = {"target": target, "seed": seed}
        with made.explained_failures(values):
            return relevances(made.step_by_step(), values, controls, keep=keep, absent=made.absent())

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
        """Run every stage of the compilation, and report which pass changed the result, and by how much.

        A stage without relevance steps must compute the output of the model. A later stage must compute the relevance
        that the first stage with relevance steps computed.

        Args:
            inputs: As for :meth:`forward`.
            target: As for :meth:`forward`.
            seed: As for :meth:`forward`.
            named: As for :meth:`forward`.

        Returns:
            One check for each stage.

        Raises:
            InputError: The stages were not kept, the model is in training mode, or an input, the target or the seed
                does not fit.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> fxlrp.compile(model, debug=True).check_stages(torch.ones(2, 4)).wrong()
            ()
        """
        made, values = self._on_call(inputs, named)
        stages, model = self.stages, self._model
        if any(module.training for module in model.modules()):
            raise InputError("the model is in training mode: call model.eval() first")
        with torch.no_grad(), made.explained_failures(values):
            returned = made.signature.inputs.call(model, [value.clone() for value in values])
        arguments = made.interface.arguments(values, {"target": target, "seed": seed})
        return check(stages, made.graph_module, values, arguments, follow(returned, made.recipe.output))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe of the explainer as JSON: rules, options and a fingerprint of the model, but no code.

        :func:`fxlrp.load` makes the explainer again, for the same model.

        Args:
            path: The file to write.

        Raises:
            RecipeError: A selector or a rule is a function, or a dynamic shape is a named dimension.
            InputError: The model is not captured yet.

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
        """A fingerprint of the annotated graph. With equal fingerprints and weights, explanations are equal."""
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

        The file contains the current weights. Its inputs are those of the model and, by default, the target. Its
        results are those of :meth:`forward`; several form a tuple, in the order of ``outputs`` in its metadata.

        Args:
            path: The file to write: ``.pt2``, or ``.onnx`` for ONNX.
            example_inputs: An input, a sequence of inputs, or a mapping from the names of the model's arguments to
                inputs and fixed values. The inputs of the file have the same types, and the same sizes except for the
                batch.
            format: "export" for ``torch.export.load``; "aoti" for a package that AOTInductor compiles for this kind of
                machine; "onnx" for ONNX runtimes.
            target: "input" adds an input after those of the model: a LongTensor with one index for each sample. An
                integer, a tuple of integers, slices and ``...``, or "largest" is built in. "largest" is the same as
                None in :meth:`forward`.
            dynamic_shapes: The sizes that are open, by the name of the input, in the format of ``torch.export``. A dict
                of dimensions adds to the open batch, unless it has an entry for dimension 0.

        Raises:
            ExportError: The explanation cannot be written in the requested form.
            InputError: An example input or the target does not fit.
            ImportError: A package that ONNX needs is not installed.

        Example:
            >>> import tempfile, torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> path = tempfile.mkdtemp() + "/explain.pt2"
            >>> fxlrp.compile(model).export(path, torch.ones(1, 4))
            >>> torch.export.load(path).module()(torch.ones(5, 4), torch.tensor([0, 1, 2, 1, 0])).shape
            torch.Size([5, 4])
        """
        made, values = self._on_call(*as_call(example_inputs))
        signature = made.signature.with_examples(values)
        explanation = deploy.Exportable(
            made.graph_module, made.interface, signature, deploy.rules_of(made.nodes, made.vocabulary)
        )
        try:
            deploy.write(explanation, path, format=format, target=target, dynamic_shapes=dynamic_shapes)
        except ExportError as error:
            raise_explained(error, self._model, signature.inputs, values)
            raise

    def train(self, mode: bool = True) -> Explainer:
        """Do nothing. An explainer explains the model in eval mode, and the model keeps its own mode."""
        return self

    def __getattr__(self, name: str) -> Any:
        """Say why a property is missing before the model is captured; modules look for submodules here."""
        if name in vars(Explainer) and not self._explanation.is_made:
            self._explanation.require(f"{name!r}")
        return super().__getattr__(name)

    @property
    def graph_module(self) -> fx.GraphModule:
        """The generated program: an ordinary ``torch.fx.GraphModule`` that reads the parameters of the model."""
        return self._explanation.require("the program").graph_module

    @property
    def front_end(self) -> FrontEnd:
        """The front end that captured the model."""
        return self._explanation.require("the front end").recipe.front_end

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The annotated forward nodes from which the program was made, in order of execution."""
        return self._explanation.require("the annotated graph").nodes

    @property
    def code(self) -> str:
        """The generated program as Python source."""
        return code.program_text(self.graph_module)

    def table(self, *, constants: bool = False) -> str:
        """The annotated graph as a table: every node with its rule, and why it has that rule.

        Args:
            constants: Whether to include rows for parameters and for values that are computed from parameters alone.

        Returns:
            The table.

        Raises:
            InputError: The model is not captured yet.
        """
        made = self._explanation.require("the annotated graph")
        shapes = infer_shapes(made.graph_module, made.annotated, self._seen) if self._seen else {}
        return table.render(made.nodes, made.vocabulary, shapes, constants=constants)

    def __str__(self) -> str:
        """The annotated graph as a table, or a single line before the model is captured."""
        return self.table() if self._explanation.is_made else repr(self)

    def __repr__(self) -> str:
        """A single line with the class of the model and the number of relevance steps."""
        name = type(self._model).__name__
        if not self._explanation.is_made:
            return f"Explainer({name}, captured at the first call)"
        steps = sum(annotation(node) is not None for node in self.nodes)
        return f"Explainer({name}, {steps} relevance steps)"

"""The explainer, which :func:`fxlrp.compile` returns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from fxlrp import deploy
from fxlrp.arguments import path_of, shown
from fxlrp.asked import Asked, Only
from fxlrp.capture import DynamicShapes
from fxlrp.capture.lock import is_compiling
from fxlrp.derivatives import check_derivative, check_untracked
from fxlrp.errors import ExportError
from fxlrp.inputs import as_call, spread
from fxlrp.inspection import Inspection
from fxlrp.question import At
from fxlrp.recipe.recipe import digest
from fxlrp.refused_inputs import raise_explained
from fxlrp.relevance.initial_relevance import Seed, Target
from fxlrp.relevance.targets import Each


class Explainer(Inspection):
    """Explains the outputs of a model by the relevance of its inputs.

    An explainer is made by :func:`fxlrp.compile`. It holds the model itself, not a copy, so it follows every change of
    the weights, and moving it moves the model. If capture needs example inputs and there are none, the model is
    captured at the first call.
    """

    def forward(
        self,
        *inputs: Any,
        target: Target = None,
        seed: Seed = None,
        at: At = None,
        only: Only = None,
        bypass: bool = False,
        coefficients: bool = False,
        return_output: bool = False,
        **named: Any,
    ) -> Any:
        """Compute the relevance of every floating-point input, and of every token, for the explained output.

        Args:
            inputs: The inputs of the model, each of shape ``(batch, ...)``, or containers of them.
            named: Inputs by the names of the model's arguments. :func:`fxlrp.named` is for those that have the name of
                an argument of this method.
            target: The output to explain: an integer, one integer for each sample (a list, an array or an integer
                tensor), or for an output with several dimensions a tuple with one of these for each dimension after the
                batch. In a tuple, a slice selects a region and ``...`` a whole dimension; a tensor of shape
                ``(batch, dimensions)`` is the same as a tuple of its columns. Negative integers count from the end.
                None explains the largest output of each sample; if the output has a class for each token of an input,
                as that of a language model, the largest output of the last position. :mod:`fxlrp.targets` has others:
                several targets, contrasts, spans of tokens, regions.
            seed: The initial relevance, as a tensor shaped like the output or as a function of the output. By default
                it is the value of the explained output, so that the relevance of the inputs sums to that value, except
                for what biases, stabilizers and rules that do not conserve relevance absorb.
            at: Where relevance is requested, as for :func:`fxlrp.compile`. None means the places of the compilation.
            only: Conditions: relevance that passes chosen channels of a value. A mapping from the name of a value, as
                for ``at``, to a channel, a list of channels, a boolean mask that broadcasts to the value, or a function
                of its relevance. A list of mappings asks for each of them, with the results stacked in front.
            bypass: Whether relevance that does not pass through the values in ``only``, but bypasses them through a
                skip connection, counts, too.
            coefficients: Whether to return the coefficient ``C`` of the relevance ``R = value * C``, which is defined
                where the value is zero, too.
            return_output: Whether to return the explained output, too.

        Returns:
            A tensor shaped like the input. For a model with several inputs that are explained, a dict of such tensors
            by the name of the input. Integers that select rows of an embedding have one relevance for each token. Other
            integers, truth values and the inputs in ``constants`` are not explained, and are not in the dict. With
            ``at`` a tensor shaped like the value, or a dict by name. With ``return_output`` a pair of this and the
            output.

        Raises:
            InputError: An input, the target or the seed does not fit, or ``torch.func`` differentiates an explanation
                that was not compiled with ``differentiable=True``.
            UnsupportedOpError: With ``differentiable=True``, an operation of the program has no derivative.

        Example:
            >>> import torch, fxlrp
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
            >>> explain = fxlrp.compile(model)
            >>> explain(torch.ones(2, 4), target=1).shape
            torch.Size([2, 4])
        """
        asked = Asked(target, seed, at, only, bypass, coefficients, return_output)
        inputs, named = spread(inputs, named)
        if not self.differentiable:
            check_untracked((*inputs, *named.values(), *asked.controls.values()), self.parameters())
        with nullcontext() if self.differentiable else torch.no_grad():
            made, values, answer, returned = self._run(inputs, named, asked)
        if self.differentiable and not is_compiling():
            check_derivative(answer, values, asked.controls, returned)
        question = answer.question
        as_dict = bool(question.at) and not question.is_single
        relevance = made.signature.by_name(values, answer.interface.by_name(returned), as_dict=as_dict)
        return (relevance, returned[-1]) if question.returns_output else relevance

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe of the explainer as JSON: rules, options and a fingerprint of the model, but no code.

        :func:`fxlrp.load` makes the explainer again, for the same model.

        Args:
            path: The file to write.

        Raises:
            RecipeError: A selector or a rule is a function, or a dynamic shape is a named dimension.
            InputError: The model is not captured yet, or ``path`` is not a path.

        Example:
            >>> import tempfile, torch, fxlrp
            >>> model = torch.nn.Linear(4, 3).eval()
            >>> path = tempfile.mkdtemp() + "/explain.json"
            >>> fxlrp.compile(model).save(path)
            >>> fxlrp.load(path, model)(torch.ones(2, 4), target=1).shape
            torch.Size([2, 4])
        """
        file = path_of(path)
        recipe = self._explanation.require("the recipe").recipe
        recipe.save(file, self._model, self.digest())

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
        at: At = None,
        only: deploy.ExportOnly = None,
        bypass: bool = False,
        outputs: Sequence[str] = ("relevance",),
        dynamic_shapes: DynamicShapes = None,
        any_device: bool = False,
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
            target: "input" adds an input after those of the model: a LongTensor with one index for each sample, or of
                an output with several dimensions ``(batch, dimensions)``. ``each(["input"] * n)`` of
                :func:`fxlrp.targets.each` takes ``n`` of them, stacked in front. An integer, a tuple of integers,
                slices and ``...``, a target of :mod:`fxlrp.targets`, or "largest" is built in. "largest" is the same as
                None in :meth:`forward`.
            at: As for :meth:`forward`.
            only: As for :meth:`forward`. The conditions are built in, except those that are "input": each is an input
                after the target, a boolean mask ``(batch, channels)``. A list with "input" takes one for each question,
                stacked in front.
            bypass: As for :meth:`forward`.
            outputs: ``("relevance", "output")`` returns the explained output after the relevance.
            dynamic_shapes: The sizes that are open, by the name of the input, in the format of ``torch.export``. A dict
                of dimensions adds to the open batch, unless it has an entry for dimension 0.
            any_device: Whether ``torch.export.passes.move_to_device_pass`` can move the file to another kind of device.
                Attention is then written out, because its kernels belong to the device of the examples.

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
        if not isinstance(outputs, list | tuple) or tuple(outputs) not in (("relevance",), ("relevance", "output")):
            raise ExportError(f"outputs must be ('relevance',) or ('relevance', 'output'), not {shown(outputs)}")
        deploy.check_destination(path, format)
        made, values = self._on_call(*as_call(example_inputs))
        signature = made.signature.with_examples(values)
        asked = Asked(target if isinstance(target, Each) else None, None, at, only, bypass, False, len(outputs) > 1)
        answer = made.answer(asked.question(made.main.question))
        explanation = deploy.Exportable(
            answer.graph_module,
            answer.interface,
            signature,
            deploy.rules_of(answer.nodes, made.vocabulary),
            asked.conditions,
        )
        try:
            deploy.write(
                explanation,
                path,
                format=format,
                target=target,
                dynamic_shapes=dynamic_shapes,
                any_device=any_device,
            )
        except ExportError as error:
            raise_explained(error, self._model, signature.inputs, values)
            raise

"""The recipe of an explainer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import fx, nn

from fxlrp.arguments import path_of
from fxlrp.capture import EVERY_OUTPUT, FrontEnd, Output
from fxlrp.capture.escaped_paths import ESCAPED
from fxlrp.errors import RecipeError
from fxlrp.extensions import Extension
from fxlrp.inputs import Inputs
from fxlrp.optimizations import Optimizations
from fxlrp.passes.base import Pass
from fxlrp.program import annotation
from fxlrp.provenance import MODEL
from fxlrp.question import Question
from fxlrp.recipe.examples import dump_examples, load_examples
from fxlrp.recipe.fingerprint import fingerprint, tensor_fingerprint
from fxlrp.recipe.form import FORMAT, HINTS
from fxlrp.recipe.rules import dump_preset, load_preset
from fxlrp.request import Request
from fxlrp.rules.preset import Preset
from fxlrp.version import __version__


@dataclass(frozen=True)
class Recipe:
    """The arguments with which an explainer was compiled, except the model and the extensions.

    Args:
        preset: The rules.
        front_end: The front end that captured the model.
        inputs: The inputs, with examples if any were given.
        output: The output that is explained.
        question: Where relevance is requested.
        dynamic_shapes: The dynamic sizes of ``torch.export``.
        optimizations: The optimizations.
        segments: The number of segments of checkpointing.
        extensions: The names of the functions that have user-defined rules.
        passes: The names of the user-defined passes.
        constants: The names of the inputs that are not explained.
        differentiable: Whether autograd can differentiate the relevance.
    """

    preset: Preset
    front_end: FrontEnd
    inputs: Inputs
    output: Output
    question: Question
    dynamic_shapes: Mapping[str, Any] | None
    optimizations: Optimizations
    segments: int | None
    extensions: tuple[str, ...]
    passes: tuple[str, ...]
    constants: tuple[str, ...] = ()
    differentiable: bool = False

    @staticmethod
    def of(
        request: Request,
        inputs: Inputs,
        front_end: FrontEnd,
        optimizations: Optimizations,
        extensions: Sequence[Extension],
        passes: Sequence[Pass],
    ) -> Recipe:
        """Return the recipe of a compilation."""
        assert request.output is not EVERY_OUTPUT
        return Recipe(
            request.preset,
            front_end,
            inputs,
            request.output,
            request.question,
            request.dynamic_shapes,
            optimizations,
            request.segments,
            tuple(extension.function.__name__ for extension in extensions),
            tuple(each.name for each in passes),
            request.constants,
            request.differentiable,
        )

    def save(self, path: str | os.PathLike[str], model: nn.Module, graph: str) -> None:
        """Write the recipe as JSON, with the fingerprints of the model and of its annotated graph.

        Raises:
            RecipeError: It contains code, such as a predicate that selects nodes.
        """
        saved = {
            "format": FORMAT,
            "versions": versions(),
            "rules": dump_preset(self.preset),
            "front_end": self.front_end,
            "example_inputs": dump_examples(self.inputs),
            "output": list(self.output) if isinstance(self.output, tuple) else self.output,
            "at": _dump_places(self.question),
            "dynamic_shapes": _dump_shapes(self.dynamic_shapes),
            "optimizations": dataclasses.asdict(self.optimizations),
            "segments": self.segments,
            "extensions": list(self.extensions),
            "passes": list(self.passes),
            "constants": list(self.constants),
            "differentiable": self.differentiable,
            "model": fingerprint(model),
            "graph": graph,
        }
        path_of(path).write_text(json.dumps(saved, indent=1) + "\n", encoding="utf-8")


def options(saved: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the arguments of :func:`fxlrp.compile` that a recipe contains: all except extensions.

    Raises:
        RecipeError: This version does not have a rule or an optimization of the recipe, or an example cannot be made.
    """
    output, segments = saved["output"], saved["segments"]
    return {
        "rules": load_preset(saved["rules"], model),
        "capture": saved["front_end"],
        "example_inputs": load_examples(saved["example_inputs"]),
        "output": tuple(output) if isinstance(output, list) else output,
        "at": saved["at"],
        "dynamic_shapes": _load_shapes(saved["dynamic_shapes"]),
        "optimize": _load_optimizations(saved["optimizations"]),
        "checkpoint": segments or segments is not None,
        # Recipes of version 0.2 and before do not contain them.
        "constants": saved.get("constants", []),
        "differentiable": saved.get("differentiable", False),
    }


def versions() -> dict[str, str]:
    """Return the versions on which a graph depends."""
    return {"fxlrp": __version__, "torch": torch.__version__.partition("+")[0]}


def digest(nodes: Sequence[fx.Node], root: nn.Module) -> str:
    """Return a fingerprint of an annotated graph.

    It covers the call and the rule of each node, and the tensors that are neither parameters nor buffers of the model.

    Args:
        nodes: The nodes of the graph.
        root: The module that contains its constants.
    """
    lines = [f"{node.format_node()} {annotation(node)}" for node in nodes]
    tensors = (
        *root.named_parameters(remove_duplicate=False),
        *root.named_buffers(remove_duplicate=False),
    )
    weights = {name for name, _ in tensors if name.startswith(f"{MODEL}.")}
    read = [str(node.target) for node in nodes if node.op == "get_attr" and node.target not in weights]
    paths = [path for path in read if not path.startswith(f"{ESCAPED}.")]
    constants = [tensor_fingerprint(attrgetter(path)(root)) for path in paths]
    return hashlib.sha256("\n".join([*lines, json.dumps(constants)]).encode()).hexdigest()


def _dump_places(question: Question) -> Any:
    """The argument ``at=`` of the question of a compilation."""
    return question.at[0] if question.is_single else list(question.at) or None


def _load_optimizations(saved: Mapping[str, bool]) -> Optimizations:
    unknown = saved.keys() - {field.name for field in dataclasses.fields(Optimizations)}
    if unknown:
        raise RecipeError(f"this version of fxlrp has no optimization {', '.join(map(repr, sorted(unknown)))}")
    return Optimizations(**saved)


def _dump_shapes(shapes: Any) -> Any:
    """Dynamic shapes as JSON, whose keys are strings, so a mapping becomes a list of pairs."""
    if isinstance(shapes, Mapping):
        return {"mapping": [[key, _dump_shapes(value)] for key, value in shapes.items()]}
    if isinstance(shapes, list | tuple):
        return {"sequence": [_dump_shapes(value) for value in shapes]}
    if shapes is None or isinstance(shapes, int):
        return shapes
    for name, hint in HINTS.items():
        if shapes == hint:
            return {"hint": name}
    raise RecipeError(
        f"a recipe cannot contain the dynamic shape {shapes!r}: use torch.export.Dim.AUTO, Dim.DYNAMIC or Dim.STATIC"
    )


def _load_shapes(saved: Any) -> Any:
    if not isinstance(saved, Mapping):
        return saved
    ((kind, value),) = saved.items()
    if kind == "mapping":
        return {key: _load_shapes(each) for key, each in value}
    return tuple(_load_shapes(each) for each in value) if kind == "sequence" else HINTS[value]

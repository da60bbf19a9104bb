"""The example inputs of a recipe: shapes and types instead of tensors, in the containers that JSON has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import RecipeError
from fxlrp.inputs import Inputs
from fxlrp.nested import Slot


def dump_examples(inputs: Inputs) -> Any:
    """The shapes and types of the example inputs, in the form that compile takes; their values do not matter.

    Raises:
        RecipeError: An input is in a container that JSON does not have, or cannot be passed by name.
    """
    if not inputs.examples:
        return None
    examples = {
        name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in inputs.examples.items()
    }
    arguments = {name: _dump(template, examples, name) for name, template in inputs.arguments.items()}
    if not inputs.keyword:
        return [_unwrapped(each) for each in arguments.values()]
    if inputs.several:
        raise RecipeError(f"a recipe cannot contain *{inputs.variadic} beside inputs by name: pass them by position")
    return {
        "tensors": {name: each["tensor"] for name, each in arguments.items() if "tensor" in each},
        "constants": {name: each["constant"] for name, each in arguments.items() if "constant" in each},
        "containers": {name: each for name, each in arguments.items() if each.keys() & {"list", "tuple", "dict"}},
    }


def load_examples(saved: Any) -> Any:
    """Return example inputs of the shapes and types of a recipe."""
    if isinstance(saved, Mapping):
        tensors = {name: _example(spec) for name, spec in saved["tensors"].items()}
        containers = {name: _load(each) for name, each in saved.get("containers", {}).items()}
        return {**tensors, **saved["constants"], **containers}
    return None if saved is None else tuple(_load(each if "shape" not in each else {"tensor": each}) for each in saved)


def _unwrapped(dumped: dict[str, Any]) -> Any:
    """A tensor among positional inputs, which needs no kind."""
    return dumped.get("tensor", dumped)


def _dump(template: Any, examples: Mapping[str, Any], name: str) -> dict[str, Any]:
    if isinstance(template, Slot):
        return {"tensor": examples[template.name]}
    if isinstance(template, bool | int | float | str | None):
        return {"constant": template}
    if type(template) in (list, tuple):
        return {type(template).__name__: [_dump(each, examples, f"{name}.{i}") for i, each in enumerate(template)]}
    if type(template) is dict and all(isinstance(key, str) for key in template):
        return {"dict": {key: _dump(each, examples, f"{name}.{key}") for key, each in template.items()}}
    raise RecipeError(
        f"a recipe cannot contain the input {name!r}, a {type(template).__name__}: use lists, tuples and dictionaries"
    )


def _load(saved: Mapping[str, Any]) -> Any:
    ((kind, value),) = saved.items()
    if kind == "tensor":
        return _example(value)
    if kind == "dict":
        return {key: _load(each) for key, each in value.items()}
    if kind in ("list", "tuple"):
        elements = [_load(each) for each in value]
        return elements if kind == "list" else tuple(elements)
    return value


def _example(spec: Mapping[str, Any]) -> Tensor:
    try:
        return torch.zeros(spec["shape"], dtype=getattr(torch, spec["dtype"]))
    except RuntimeError as error:
        raise RecipeError(f"an example input of the recipe cannot be made: {spec}: {error}") from error

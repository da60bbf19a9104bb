"""The inputs for which a captured graph is valid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fxlrp.capture.value_guards import ValueGuard
from fxlrp.errors import InputError
from fxlrp.inputs import Inputs

# The parameter of the captured module that has all inputs.
INPUTS = "inputs"

Reason: TypeAlias = "Callable[[], str]"


@dataclass(frozen=True)
class ShapeGuards:
    """The assumptions of ``torch.export`` about the inputs.

    Args:
        names: The names of the inputs.
        fixed: The sizes of each input; None for a size that is dynamic.
        dtypes: The types of the inputs.
        conditions: Further conditions on the sizes: in words, and as a function of the inputs by name.
        values: What the model has read of the values of inputs; None for nothing.
    """

    names: tuple[str, ...]
    fixed: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    conditions: tuple[tuple[str, Callable[[Mapping[str, Any]], bool]], ...]
    values: ValueGuard | None = None

    def misfit(self, values: Sequence[Tensor]) -> Reason | None:
        """Return why the graph is not valid for inputs, to be put into words; None if it is."""
        for name, sizes, dtype, value in zip(self.names, self.fixed, self.dtypes, values, strict=True):
            fits = value.dim() == len(sizes) and all(
                size is None or size == got for size, got in zip(sizes, value.shape, strict=True)
            )
            if not fits:
                return partial(_other_shape, name, sizes, value)
            if value.dtype != dtype:
                return partial(_other_type, name, dtype, value)
        given = {INPUTS: values}
        for words, holds in self.conditions:
            if not holds(given):
                return partial(_other_sizes, words, values)
        return None if self.values is None else self.values.misfit(values)

    def check(self, values: Sequence[Tensor]) -> None:
        """Check that the graph is valid for inputs.

        Raises:
            InputError: A size or a type differs from the capture.
        """
        misfit = self.misfit(values)
        if misfit is not None:
            raise InputError(f"{misfit()}: compile with example_inputs like these, or with dynamic_shapes")

    @staticmethod
    def of(exported: ExportedProgram, inputs: Inputs, values: ValueGuard | None = None) -> ShapeGuards:
        """Return the assumptions of an exported holder of the model."""
        names, users = inputs.names, set(exported.graph_signature.user_inputs)
        fakes = [node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder" and node.name in users]
        fixed = tuple(tuple(size if isinstance(size, int) else None for size in fake.shape) for fake in fakes)
        conditions = tuple((_words(code, names), _condition(code)) for code in exported._guards_code)
        return ShapeGuards(names, fixed, tuple(fake.dtype for fake in fakes), conditions, values)


def _other_shape(name: str, sizes: Sequence[int | None], value: Tensor) -> str:
    shape = ", ".join("any" if size is None else str(size) for size in sizes)
    return f"the input {name!r} has shape {tuple(value.shape)}; torch.export captured the model for ({shape})"


def _other_type(name: str, dtype: torch.dtype, value: Tensor) -> str:
    return f"the input {name!r} is {value.dtype}, but torch.export captured the model for {dtype}"


def _other_sizes(words: str, values: Sequence[Tensor]) -> str:
    shapes = ", ".join(str(tuple(value.shape)) for value in values)
    return f"torch.export captured the model for other sizes of the inputs than {shapes}: they must satisfy {words}"


def _words(code: str, names: Sequence[str]) -> str:
    for position, name in enumerate(names):
        code = code.replace(f"L['{INPUTS}'][{position}]", name)
    return code.replace(".size()", ".shape")


def _condition(code: str) -> Callable[[Mapping[str, Any]], bool]:
    """Compile a guard of torch.export, a Python expression in the sizes of the inputs ``L``."""
    holds: Callable[[Mapping[str, Any]], bool] = eval(f"lambda L: {code}", {"math": math, "torch": torch})
    return holds

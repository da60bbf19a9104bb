"""The input sizes for which a captured graph is valid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fxlrp.errors import InputError
from fxlrp.inputs import Inputs


@dataclass(frozen=True)
class ShapeGuards:
    """The assumptions of ``torch.export`` about the inputs.

    Args:
        names: The names of the inputs.
        fixed: The sizes of each input; None for a size that is dynamic.
        dtypes: The types of the inputs.
        conditions: Further conditions on the sizes: in words, and as a function of the inputs by name.
    """

    names: tuple[str, ...]
    fixed: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    conditions: tuple[tuple[str, Callable[[Mapping[str, Any]], bool]], ...]
    variadic: str | None = None

    def check(self, values: Sequence[Tensor]) -> None:
        """Check that the graph is valid for inputs.

        Raises:
            InputError: A size or a type differs from the capture.
        """
        for name, sizes, dtype, value in zip(self.names, self.fixed, self.dtypes, values, strict=True):
            fits = value.dim() == len(sizes) and all(
                size is None or size == got for size, got in zip(sizes, value.shape, strict=True)
            )
            if not fits:
                shape = ", ".join("any" if size is None else str(size) for size in sizes)
                raise InputError(
                    f"the input {name!r} has shape {tuple(value.shape)}; torch.export captured the model for "
                    f"({shape}): compile with example_inputs of that shape, or with dynamic_shapes"
                )
            if value.dtype != dtype:
                raise InputError(
                    f"the input {name!r} is {value.dtype}, but torch.export captured the model for {dtype}: "
                    f"compile with example_inputs of that type"
                )
        named: dict[str, Any] = dict(zip(self.names, values, strict=True))
        if self.variadic is not None:
            named[self.variadic] = [value for name, value in named.items() if name.startswith(f"{self.variadic}_")]
        for words, holds in self.conditions:
            if not holds(named):
                raise InputError(
                    f"torch.export captured the model for other sizes of the inputs than "
                    f"{', '.join(str(tuple(value.shape)) for value in values)}: they must satisfy {words}"
                )

    @staticmethod
    def of(exported: ExportedProgram, inputs: Inputs, users: Mapping[str, Any]) -> ShapeGuards:
        """Return the assumptions of ``exported``, whose inputs have the fake values ``users`` by name."""
        names = inputs.names
        fixed = tuple(tuple(size if isinstance(size, int) else None for size in users[name].shape) for name in names)
        conditions = tuple((_words(code), _condition(code)) for code in exported._guards_code)
        dtypes = tuple(inputs.examples[name].dtype for name in names)
        return ShapeGuards(names, fixed, dtypes, conditions, inputs.variadic)


def _words(code: str) -> str:
    return code.replace("L['", "").replace("']", "").replace(".size()", ".shape")


def _condition(code: str) -> Callable[[Mapping[str, Any]], bool]:
    """Compile a guard of torch.export, a Python expression in the sizes of the inputs ``L``."""
    holds: Callable[[Mapping[str, Any]], bool] = eval(f"lambda L: {code}", {"math": math, "torch": torch})
    return holds

"""What a program expects of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.errors import InputError
from fxlrp.inputs import Inputs
from fxlrp.program import Program, receivers


@dataclass(frozen=True)
class Expected:
    """What a program expects of each of its inputs.

    Args:
        names: Their names.
        relevant: Whether relevance reaches it.
        tokens: Whether it selects rows of an embedding.
        masks: Whether it is a mask of attention.
        constants: Those that the example inputs made constants, being no real numbers.
    """

    names: tuple[str, ...]
    relevant: tuple[bool, ...]
    tokens: tuple[bool, ...]
    masks: tuple[bool, ...]
    constants: tuple[str, ...]

    @staticmethod
    def of(nodes: Sequence[fx.Node], program: Program, inputs: Inputs) -> Expected:
        """What the program made of these annotated nodes expects."""
        reached = {source for node in nodes for source in receivers(node, program.vocabulary)}
        placeholders = [node for node in nodes if node.op == "placeholder"]
        specs = zip(inputs.names, inputs.specs, strict=False)
        return Expected(
            inputs.names,
            tuple(node in reached for node in placeholders),
            _among(placeholders, program.tokens),
            _among(placeholders, program.masks),
            tuple(name for name, spec in specs if not spec.is_floating),
        )

    def check(self, values: Sequence[Any], parameter: Tensor | None) -> None:
        """Refuse inputs of the wrong type or on another device than ``parameter``.

        Raises:
            InputError: The message says which and why.
        """
        facts = zip(self.names, values, self.relevant, self.tokens, self.masks, strict=True)
        for name, value, relevant, is_token, is_mask in facts:
            if not isinstance(value, Tensor):
                raise InputError(f"the input {name!r} must be a tensor, not {type(value).__name__}")
            if is_token and (value.is_floating_point() or value.is_complex()):
                raise InputError(f"the input {name!r} is {value.dtype}, but it selects rows of an embedding")
            is_indices = is_token or (is_mask and value.dtype == torch.bool)
            if value.is_complex() or (relevant and not is_indices and not value.is_floating_point()):
                raise InputError(f"the input {name!r} is {value.dtype}; relevance needs a real floating-point input")
            if name in self.constants and value.is_floating_point():
                raise InputError(f"the input {name!r} is {value.dtype}, but the example inputs made it a constant")
            if parameter is not None and value.device != parameter.device:
                raise InputError(f"the input {name!r} is on {value.device}, the model on {parameter.device}")


def _among(placeholders: Sequence[fx.Node], nodes: frozenset[fx.Node]) -> tuple[bool, ...]:
    """Which inputs are among ``nodes``; by name, for the nodes may be those of a copy."""
    found = {node.name for node in nodes}
    return tuple(node.name in found for node in placeholders)

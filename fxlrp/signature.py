"""The arguments of a program: their names, types, devices and sizes, checked in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.capture.shape_guards import ShapeGuards
from fxlrp.errors import InputError
from fxlrp.inputs import Examples, Inputs
from fxlrp.program import Program, inputs_among, receivers


@dataclass(frozen=True)
class Requirement:
    """The requirements of one input.

    Args:
        name: The name of the input.
        relevant: Whether relevance reaches it.
        is_token: Whether it selects rows of an embedding.
        is_mask: Whether it is an attention mask.
        is_constant: Whether the example inputs made it a constant, because it does not contain real numbers.
    """

    name: str
    relevant: bool
    is_token: bool
    is_mask: bool
    is_constant: bool

    def check(self, value: Any, parameter: Tensor | None) -> None:
        """Check the type and the layout of a value, and that it has values if ``parameter`` does.

        Raises:
            InputError: The type, the layout or the device is wrong.
        """
        name = self.name
        if not isinstance(value, Tensor):
            raise InputError(f"the input {name!r} must be a tensor, not {type(value).__name__}")
        if value.is_nested:
            raise InputError(f"the input {name!r} is a nested tensor: pad it, with torch.nested.to_padded_tensor(...)")
        if self.is_token and (value.is_floating_point() or value.is_complex()):
            raise InputError(f"the input {name!r} is {value.dtype}, but it selects rows of an embedding: pass integers")
        is_indices = self.is_token or (self.is_mask and value.dtype == torch.bool)
        if value.is_complex() or (self.relevant and not is_indices and not value.is_floating_point()):
            raise InputError(f"the input {name!r} is {value.dtype}; relevance needs a real floating-point input")
        if self.is_constant and value.is_floating_point():
            raise InputError(f"the input {name!r} is {value.dtype}, but the example inputs made it a constant")
        if self.relevant and value.layout != torch.strided:
            raise InputError(f"the input {name!r} is {value.layout}; relevance needs a dense one: use to_dense()")
        # A model may move its inputs to another device. But many operations take tensors without values beside others.
        if parameter is not None and value.is_meta != parameter.is_meta:
            raise InputError(f"the input {name!r} is on {value.device}, but the model is on {parameter.device}")


@dataclass(frozen=True)
class Signature:
    """The inputs of a program, and their requirements.

    Args:
        inputs: Their names, and how the model is called with them.
        requirements: The requirements of each input, in the same order.
        guards: The sizes and types for which the program is valid; None for all.
    """

    inputs: Inputs
    requirements: tuple[Requirement, ...]
    guards: ShapeGuards | None

    @staticmethod
    def of(program: Program, nodes: Sequence[fx.Node], inputs: Inputs, guards: ShapeGuards | None) -> Signature:
        """Return the signature of an annotated program; ``nodes`` are those of its graph or of a copy."""
        reached = {source for node in nodes for source in receivers(node, program.vocabulary)}
        tokens, masks = ({node.name for node in found} for found in (program.facts.tokens, program.facts.masks))
        floating = dict(zip(inputs.names, (spec.is_floating for spec in inputs.specs), strict=False))
        requirements = tuple(
            Requirement(name, node in reached, node.name in tokens, node.name in masks, not floating.get(name, True))
            for name, node in zip(inputs.names, inputs_among(nodes), strict=True)
        )
        return Signature(inputs, requirements, guards)

    @property
    def tokens(self) -> frozenset[str]:
        """The names of the inputs that select rows of an embedding."""
        return frozenset(each.name for each in self.requirements if each.is_token)

    def with_examples(self, examples: Examples) -> Signature:
        """This signature with other example inputs."""
        return replace(self, inputs=self.inputs.with_examples(examples))

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any], parameter: Tensor | None) -> tuple[Tensor, ...]:
        """Check the values of a call, and return them in the order of the program's inputs.

        Args:
            args: The values that are passed by position.
            kwargs: The values that are passed by name.
            parameter: A parameter of the model.

        Raises:
            InputError: A value is missing, unknown, given twice, or does not fit.
        """
        values = self.inputs.arrange(args, kwargs)
        for requirement, value in zip(self.requirements, values, strict=True):
            requirement.check(value, parameter)
        if self.guards is not None:
            self.guards.check(values)
        return values

    def explained(self, values: Sequence[Tensor], results: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the results of an explanation: the relevance of real inputs and tokens, but not of masks.

        Args:
            values: The values of the call.
            results: The relevance of every input, by name.
        """
        given = dict(zip(self.inputs.names, values, strict=True))
        return tuple(
            relevance
            for name, relevance in results.items()
            if name not in given or name in self.tokens or given[name].is_floating_point()
        )

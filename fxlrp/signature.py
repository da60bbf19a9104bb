"""The arguments of a program: their names, types, devices and sizes, checked in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.capture.shape_guards import Reason, ShapeGuards
from fxlrp.errors import InputError
from fxlrp.inputs import Inputs
from fxlrp.layouts import like_input
from fxlrp.program import Program, inputs_among, receivers
from fxlrp.relevance.numerics import as_type_of


@dataclass(frozen=True)
class Requirement:
    """The requirements of one input.

    Args:
        name: The name of the input.
        relevant: Whether relevance reaches it.
        is_token: Whether it selects rows of an embedding.
        is_mask: Whether it is an attention mask.
        is_integer: Whether the example inputs show that it does not contain real numbers.
        is_constant: Whether it is declared a constant, which may have any type.
    """

    name: str
    relevant: bool
    is_token: bool
    is_mask: bool
    is_integer: bool
    is_constant: bool = False

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
        if self.is_constant:
            return
        if self.is_token and (value.is_floating_point() or value.is_complex()):
            raise InputError(f"the input {name!r} is {value.dtype}, but it selects rows of an embedding: pass integers")
        is_indices = self.is_token or (self.is_mask and value.dtype == torch.bool)
        if value.is_complex() or (self.relevant and not is_indices and not value.is_floating_point()):
            declared = f"or list it in constants=[{name!r}] if it is not to be explained"
            hint = "" if value.is_complex() else f": convert it, such as by float() / 255 for an image, {declared}"
            raise InputError(f"the input {name!r} is {value.dtype}; relevance needs a real floating-point input{hint}")
        if self.is_integer and value.is_floating_point():
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
        constants = program.options.constants
        requirements = tuple(
            Requirement(
                name,
                relevant=node in reached,
                is_token=node.name in tokens,
                is_mask=node.name in masks,
                is_integer=not floating.get(name, True),
                is_constant=name in constants,
            )
            for name, node in zip(inputs.names, inputs_among(nodes), strict=True)
        )
        return Signature(inputs, requirements, guards)

    @property
    def tokens(self) -> frozenset[str]:
        """The names of the inputs that select rows of an embedding."""
        return frozenset(each.name for each in self.requirements if each.is_token)

    def with_examples(self, values: Sequence[Tensor]) -> Signature:
        """This signature with other example inputs, in order."""
        return replace(self, inputs=self.inputs.with_values(values))

    def check(self, values: Sequence[Any], parameter: Tensor | None) -> None:
        """Check the types and devices of the inputs of a call.

        Args:
            values: The inputs, in order.
            parameter: A parameter of the model.

        Raises:
            InputError: An input does not fit.
        """
        for requirement, value in zip(self.requirements, values, strict=True):
            requirement.check(value, parameter)

    def misfit(self, values: Sequence[Tensor]) -> Reason | None:
        """Return why the program is not valid for inputs, a size or a type, to be put into words; None if it is."""
        return None if self.guards is None else self.guards.misfit(values)

    def explained(self, values: Mapping[str, Tensor], results: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the results that an explanation returns: without integers that are not tokens.

        Args:
            values: The values of a call, or examples, by name.
            results: The names of the results of the program.
        """
        return tuple(
            name for name in results if name not in values or name in self.tokens or values[name].is_floating_point()
        )

    def by_name(
        self, values: Sequence[Tensor], results: Mapping[str, Tensor], *, as_dict: bool = False
    ) -> Tensor | dict[str, Tensor]:
        """Return the relevance of the explained inputs by name, or that of the only one.

        The relevance of a real input has the type of the input, also where autocast computed in another one.

        Args:
            values: The values of the call.
            results: The results of the program, by name.
            as_dict: Whether to return a single relevance by name, too.
        """
        given = dict(zip(self.inputs.names, values, strict=True))
        found = {
            name: like_input(as_type_of(results[name], given[name]), given[name]) if name in given else results[name]
            for name in self.explained(given, results)
        }
        return next(iter(found.values())) if len(found) == 1 and not as_dict else found

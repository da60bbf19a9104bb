"""The inputs of a model: their names, and how the model is called with them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from fxlrp import nested
from fxlrp.arguments import similar
from fxlrp.errors import CaptureError, InputError
from fxlrp.nested import Slot
from fxlrp.shapes import InputSpec

Examples: TypeAlias = "Tensor | Sequence[Any] | Mapping[str, Any]"
Parameters: TypeAlias = "tuple[inspect.Parameter, ...]"


class Named:
    """Inputs by name, which :func:`named` returns."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        """Keep the inputs."""
        self.inputs = inputs


def named(**inputs: Any) -> Named:
    """Name inputs of a call whose names are also those of arguments of the call, such as ``target`` or ``keep``.

    Args:
        inputs: Inputs by the names of the model's arguments.

    Returns:
        What an explainer and its methods take in place of these inputs, by position.

    Example:
        >>> import torch, fxlrp
        >>> class Weighted(torch.nn.Module):
        ...     def forward(self, x, *, target):
        ...         return x * target
        >>> explain = fxlrp.compile(Weighted().eval())
        >>> x = torch.ones(2, 3)
        >>> sorted(explain(fxlrp.named(x=x, target=x), target=1))
        ['target', 'x']
    """
    return Named(inputs)


def spread(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, by position and by name, with those that :func:`named` names.

    Raises:
        InputError: An input is given twice.
    """
    found = dict(kwargs)
    for each in args:
        if isinstance(each, Named):
            twice = found.keys() & each.inputs.keys()
            if twice:
                raise InputError(f"the input {min(twice)!r} is given twice")
            found.update(each.inputs)
    return tuple(each for each in args if not isinstance(each, Named)), found


class ExamplesNeeded(Exception):
    """The model cannot be captured without example inputs."""

    def __init__(self, reason: str) -> None:
        """Store why the model cannot be captured."""
        super().__init__(reason)
        self.reason = reason


class Misfit(NamedTuple):
    """Why a call does not fit.

    Args:
        message: The reason.
        has_more: Whether the call only has arguments beside those of the capture, which the model would take.
    """

    message: str
    has_more: bool = False


@dataclass(frozen=True)
class Inputs:
    """The tensors that explanations take, and the arguments of the model of which they are, or are parts.

    An argument that is a tensor is an input with the name of the argument. Containers have an input for each tensor in
    them, such as ``batch.image``.

    Args:
        positional: The arguments that the model is called with by position, by name: a slot for each tensor.
        keyword: The arguments that it is called with by name.
        parameters: The parameters of the model's forward.
        examples: Example values by the name of the input, if they are known.
    """

    positional: Mapping[str, Any]
    keyword: Mapping[str, Any] = field(default_factory=dict)
    parameters: Parameters = ()
    examples: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """All arguments by name, with a slot for each tensor."""
        return {**self.positional, **self.keyword}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the inputs, in the order of the program's inputs."""
        return tuple(
            leaf.name
            for template in self.arguments.values()
            for _, leaf in nested.leaves(template)
            if isinstance(leaf, Slot)
        )

    @property
    def identifiers(self) -> tuple[str, ...]:
        """The names of the inputs as Python names, in the same order."""
        found: dict[str, None] = {}
        for name in self.names:
            plain = identifier(name)
            while plain in found:
                plain += "_"
            found[plain] = None
        return tuple(found)

    @property
    def fixed(self) -> dict[str, Any]:
        """The arguments that contain no tensors, and are the same in every call."""
        return {name: value for name, value in self.arguments.items() if not _slots(value)}

    @property
    def variadic(self) -> str | None:
        """The name of the model's ``*args``; None if it has none."""
        return next((each.name for each in self.parameters if each.kind is each.VAR_POSITIONAL), None)

    @property
    def several(self) -> tuple[str, ...]:
        """The names of the arguments that are elements of the model's ``*args``."""
        single = {each.name for each in self.parameters if each.kind in _BY_POSITION}
        return tuple(name for name in self.positional if name not in single) if self.variadic else ()

    @property
    def specs(self) -> tuple[InputSpec, ...]:
        """The shapes and types of the examples; empty without examples."""
        return tuple(InputSpec.of(self.examples[name]) for name in self.names) if self.examples else ()

    def check_constants(self, constants: Collection[str]) -> None:
        """Check that the inputs that are not to be explained exist, and that others remain.

        Raises:
            InputError: An input does not exist, or all are constants.
        """
        unknown = [name for name in constants if name not in self.names]
        if unknown:
            raise InputError(
                f"constants contains {unknown[0]!r}, which is not an input; the inputs are: {', '.join(self.names)}"
            )
        if set(constants) >= set(self.names):
            raise InputError("all inputs are declared constants: no input is left to explain")

    def call(self, model: Callable[..., Any], values: Sequence[Any]) -> Any:
        """Call ``model`` with ``values`` in the order of :attr:`names`."""
        named = dict(zip(self.names, values, strict=True))
        args = [nested.filled(template, named) for template in self.positional.values()]
        return model(*args, **{name: nested.filled(template, named) for name, template in self.keyword.items()})

    def match(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...] | Misfit:
        """Return the values of a call in the order of :attr:`names`, or why it does not fit.

        Positional arguments are those of the model. If only inputs are given, constants between them may be left out.
        """
        arguments = self.arguments
        given = self.by_name(args, kwargs)
        if isinstance(given, Misfit):
            return given
        missing = [name for name, template in arguments.items() if name not in given and _slots(template)]
        if missing:
            names = self._input_arguments()
            hidden = [name for name in missing if name in ARGUMENTS_OF_CALLS]
            hint = (
                f". {hidden[0]!r} is also an argument of the call: pass the input by position, or as "
                f"fxlrp.named({hidden[0]}=...)"
                if hidden
                else ""
            )
            return Misfit(f"expected {len(names)} inputs ({', '.join(names)}), got {len(given)}{hint}")
        values: list[Any] = []
        for name, template in arguments.items():
            misfit = _collect(template, given[name], name, values) if name in given else None
            if misfit is not None:
                return misfit
        more = [name for name, value in given.items() if name not in arguments and not self._is_default(name, value)]
        return Misfit(f"the explainer was compiled without the argument {more[0]!r}", True) if more else tuple(values)

    def with_values(self, values: Sequence[Any]) -> Inputs:
        """Return these inputs with other examples, in the order of :attr:`names`."""
        return replace(self, examples=dict(zip(self.names, values, strict=True)))

    def extended(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inputs:
        """Return the inputs of a call that has more arguments than these; fixed values stay the same."""
        fixed = {name: value for name, value in self.fixed.items() if name in self.keyword and value is not None}
        return Inputs.of_call(model, args, {**fixed, **kwargs})

    def check_sizes(self, dynamic_shapes: Iterable[str]) -> None:
        """Check the names of the inputs whose sizes are open.

        Raises:
            InputError: One does not exist.
        """
        unknown = [name for name in dynamic_shapes if name not in self.arguments and name != self.variadic]
        if unknown:
            names = ", ".join(self.arguments)
            raise InputError(f"dynamic_shapes names an unknown input {unknown[0]!r}; the inputs are: {names}")

    def _input_arguments(self) -> list[str]:
        return [name for name, template in self.arguments.items() if _slots(template)]

    def by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | Misfit:
        """Return the arguments of a call by name, or why it does not fit."""
        inputs = self._input_arguments()
        only_inputs = len(args) <= len(inputs) and all(_slots(value) for value in args)
        names = inputs if only_inputs else _positional_names(self.parameters, len(args)) or list(self.arguments)
        if len(args) > len(names):
            expected = f"expected {len(inputs)} input{'s' * (len(inputs) != 1)} ({', '.join(inputs)}), got {len(args)}"
            return Misfit(f"{expected}: pass everything else by name, such as target=...")
        given = dict(zip(names, args, strict=False))
        known = self.arguments.keys() | {each.name for each in self.parameters if each.kind in _BY_NAME}
        anything = any(each.kind is each.VAR_KEYWORD for each in self.parameters)
        for name, value in kwargs.items():
            if name not in known and not anything:
                hint = similar(name, (*inputs, *OF_THE_QUESTION))
                return Misfit(f"unknown input {name!r}; the inputs are: {', '.join(inputs)}{hint}")
            if name in given:
                return Misfit(f"the input {name!r} is given twice")
            given[name] = value
        return given

    def _is_default(self, name: str, value: Any) -> bool:
        return any(each.name == name and _is_same(each.default, value) for each in self.parameters)

    @staticmethod
    def named(examples: Mapping[str, Tensor]) -> Inputs:
        """Return the inputs of a function that takes tensors by position."""
        return Inputs({name: Slot(name) for name in examples}, examples=examples)

    @staticmethod
    def of(model: nn.Module, examples: Examples | None = None) -> Inputs:
        """Return the inputs for which ``examples`` have values; without examples every argument without a default.

        Args:
            model: The model.
            examples: An input, a sequence of inputs, or a mapping of argument names to values. An input is a tensor, or
                a container of tensors and constants.

        Raises:
            ExamplesNeeded: There are no examples, and the model has only optional arguments.
            CaptureError: The arguments of the model do not have names, or do not match the examples.
            InputError: An example is neither a tensor nor a constant, or there is no tensor.
        """
        if examples is not None:
            return Inputs.of_call(model, *as_call(examples))
        parameters = _parameters(model)
        needed = [each for each in parameters if each.default is each.empty and each.kind in _SINGLE]
        positional = {each.name: Slot(each.name) for each in needed if each.kind is not each.KEYWORD_ONLY}
        keyword = {each.name: Slot(each.name) for each in needed if each.kind is each.KEYWORD_ONLY}
        if not needed and parameters:
            raise ExamplesNeeded(f"{type(model).__name__}.forward has only optional arguments")
        if not needed:
            raise CaptureError(f"{type(model).__name__}.forward takes 0 inputs, not at least one")
        return Inputs(positional, keyword, parameters)

    @staticmethod
    def of_call(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inputs:
        """Return the inputs of a call with ``args`` and ``kwargs``, which become the examples."""
        parameters, name = _parameters(model), type(model).__name__
        names = _positional_names(parameters, len(args))
        if len(names) < len(args):
            raise InputError(f"{name}.forward takes {len(names)} input{'s' * (len(names) != 1)}, not {len(args)}")
        anything = any(each.kind is each.VAR_KEYWORD for each in parameters)
        known = [each.name for each in parameters if each.kind in _BY_NAME]
        for each in kwargs:
            if each not in known and not anything:
                raise InputError(f"{name}.forward has no argument {each!r}; it has: {', '.join(known)}")
            if each in names:
                raise InputError(f"the input {each!r} is given twice")
        # Explanations take positional arguments in the same order as the model.
        order = {each.name: position for position, each in enumerate(parameters)}
        by_name = dict(sorted(kwargs.items(), key=lambda item: order.get(item[0], len(order))))
        examples: dict[str, Tensor] = {}
        positional = {each: _template(value, each, examples) for each, value in zip(names, args, strict=True)}
        keyword = {each: _template(value, each, examples) for each, value in by_name.items()}
        if not examples:
            raise InputError("the example inputs must contain at least one tensor")
        return Inputs(positional, keyword, parameters, examples)


ARGUMENTS_OF_CALLS = frozenset(
    (
        *("target", "seed", "at", "only", "bypass", "coefficients", "return_output"),
        *("keep", "path", "rounding", "tolerance"),
    )
)
"""The arguments of the calls of an explainer that are not inputs."""

_Parameter = inspect.Parameter
_BY_POSITION = (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)
# The arguments of a call beside the inputs, for hints.
OF_THE_QUESTION = ("target", "seed", "at", "only", "bypass", "coefficients", "return_output")
_BY_NAME = (_Parameter.POSITIONAL_OR_KEYWORD, _Parameter.KEYWORD_ONLY)
_SINGLE = (*_BY_POSITION, _Parameter.KEYWORD_ONLY)
_CONSTANTS = (bool, int, float, str, torch.dtype, torch.device, type(None))


def identifier(name: str) -> str:
    """The name of an input as a Python name: ``batch_image`` for ``batch.image``."""
    return re.sub(r"\W", "_", name)


def as_call(examples: Examples) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the arguments, by position and by name, of the call that examples represent."""
    if isinstance(examples, Mapping):
        return (), examples
    return tuple(examples) if isinstance(examples, list | tuple) else (examples,), {}


def _parameters(model: nn.Module) -> Parameters:
    if type(model).forward is nn.Module.forward and "forward" not in vars(model):
        raise CaptureError(f"{type(model).__name__} has no forward: compile a module that has one")
    return tuple(inspect.signature(model.forward).parameters.values())


def _positional_names(parameters: Parameters, count: int) -> list[str]:
    """The names of the first ``count`` positional arguments; those of ``*args`` are numbered."""
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names.extend(f"{parameter.name}_{index}" for index in range(len(names), count))
        elif parameter.kind in _BY_POSITION and len(names) < count:
            names.append(parameter.name)
    return names


def _template(value: Any, name: str, examples: dict[str, Tensor]) -> Any:
    """The value with a slot for each tensor, which is added to ``examples``."""

    def taken(path: str, leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            examples[path] = leaf
            return Slot(path)
        if isinstance(leaf, _CONSTANTS):
            return leaf
        raise InputError(
            f"example inputs must be tensors, constants, or containers of these; {path!r} is a {type(leaf).__name__}"
        )

    return nested.replaced(value, taken, name)


def _slots(value: Any) -> bool:
    """Whether an argument is an input, or contains one; in templates slots stand for tensors."""
    return any(isinstance(leaf, Tensor | Slot) for _, leaf in nested.leaves(value))


def _collect(template: Any, value: Any, name: str, values: list[Any]) -> Misfit | None:
    """Add the inputs in ``value`` to ``values``, or return why it does not have the form of ``template``."""
    if isinstance(template, Slot):
        values.append(value)
        is_tensor = not _slots(value) or isinstance(value, Tensor)
        return None if is_tensor else Misfit(f"the input {name!r} must be a tensor, not a {type(value).__name__}", True)
    wanted = nested.container(template)
    if wanted is None:
        if _is_same(template, value):
            return None
        other = type(value).__name__ if _slots(value) else repr(value)
        return Misfit(f"the explainer was compiled for {name}={template!r}, not {other}", has_more=template is None)
    given = nested.container(value)
    if given is None or given.keys != wanted.keys:
        got = f"a {type(value).__name__}" if given is None else f"one with {', '.join(given.keys) or 'nothing'}"
        return Misfit(f"the input {name!r} must be a container with {', '.join(wanted.keys)}, not {got}")
    for key, part, element in zip(wanted.keys, wanted.elements, given.elements, strict=True):
        misfit = _collect(part, element, f"{name}.{key}", values)
        if misfit is not None:
            return misfit
    return None


def _is_same(constant: Any, value: Any) -> bool:
    return constant is value or (
        isinstance(constant, _CONSTANTS) and type(constant) is type(value) and constant == value
    )

"""The inputs of a model: their names, and how the model is called with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from torch import Tensor, nn

from fxlrp.errors import CaptureError, InputError
from fxlrp.shapes import InputSpec

Examples: TypeAlias = "Tensor | Sequence[Tensor] | Mapping[str, Any]"


class ExamplesNeeded(Exception):
    """The model cannot be captured without example inputs."""

    def __init__(self, reason: str) -> None:
        """Store why the model cannot be captured."""
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Inputs:
    """The tensors that explanations take, by the names of the model's arguments.

    Args:
        positional: The names of those that the model is called with by position.
        keyword: The names of those that it is called with by name.
        fixed: Further arguments, which are not tensors and are the same in every call.
        variadic: The name of the model's ``*args``, if some of the positional ones are its elements.
        examples: Example values by name, if they are known.
    """

    positional: tuple[str, ...]
    keyword: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    variadic: str | None = None
    examples: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of the program's inputs."""
        return (*self.positional, *self.keyword)

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
        args, rest = values[: len(self.positional)], values[len(self.positional) :]
        return model(*args, **dict(zip(self.keyword, rest, strict=True)), **self.fixed)

    def arrange(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values of a call in the order of :attr:`names`.

        Raises:
            InputError: A value is missing, unknown or given twice.
        """
        names = self.names
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name in self.fixed and type(value) is type(self.fixed[name]) and value == self.fixed[name]:
                continue
            if name not in names:
                raise InputError(f"unknown input {name!r}; the inputs are: {', '.join(names)}")
            if name in given:
                raise InputError(f"the input {name!r} is given twice")
            given[name] = value
        if len(args) > len(names) or len(given) < len(names):
            raise InputError(f"expected {len(names)} inputs ({', '.join(names)}), got {max(len(args), len(given))}")
        return tuple(given[name] for name in names)

    def with_examples(self, examples: Examples) -> Inputs:
        """Return these inputs with other examples.

        Args:
            examples: A tensor, a sequence of tensors, or a mapping of argument names to tensors and fixed values.

        Raises:
            InputError: An example is missing or unknown, or a fixed value differs.
        """
        args, kwargs = as_call(examples)
        for name, value in self.fixed.items():
            if name in kwargs and (type(kwargs[name]), kwargs[name]) != (type(value), value):
                raise InputError(f"the explainer was compiled for {name}={value!r}, not {kwargs[name]!r}")
        values = self.arrange(args, kwargs)
        return replace(self, examples=dict(zip(self.names, values, strict=True)))

    @staticmethod
    def of(model: nn.Module, examples: Any = None) -> Inputs:
        """Return the inputs for which ``examples`` have values; without examples every argument without a default.

        Args:
            model: The model.
            examples: A tensor, a sequence of tensors, or a mapping of argument names to values. Values in a mapping
                that are not tensors are fixed.

        Raises:
            ExamplesNeeded: There are no examples, and the model has only optional arguments.
            CaptureError: The arguments of the model do not have names, or do not match the examples.
            InputError: An example is not a tensor.
        """
        if isinstance(examples, Mapping):
            return _by_name(model, examples)
        if examples is None:
            return Inputs(_names(model, None)[0])
        values = (examples,) if isinstance(examples, Tensor) else tuple(examples)
        for value in values:
            if not isinstance(value, Tensor):
                raise InputError(f"example inputs must be tensors, not {type(value).__name__}")
        names, variadic = _names(model, len(values))
        return Inputs(names, variadic=variadic, examples=dict(zip(names, values, strict=True)))

    @staticmethod
    def of_call(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Inputs:
        """Return the inputs of a call with ``args`` and ``kwargs``, which become the examples."""
        if not kwargs:
            return Inputs.of(model, args)
        names, _ = _names(model, len(args)) if args else ((), None)
        return Inputs.of(model, {**dict(zip(names, args, strict=True)), **kwargs})


def as_call(examples: Examples) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the arguments, by position and by name, of the call that examples represent."""
    if isinstance(examples, Mapping):
        return (), examples
    return (examples,) if isinstance(examples, Tensor) else tuple(examples), {}


def _by_name(model: nn.Module, examples: Mapping[str, Any]) -> Inputs:
    parameters = inspect.signature(model.forward).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in examples:
        if name not in parameters and not anything:
            raise InputError(
                f"{type(model).__name__}.forward has no argument {name!r}; it has: {', '.join(parameters)}"
            )
    tensors = {name: value for name, value in examples.items() if isinstance(value, Tensor)}
    fixed = {name: value for name, value in examples.items() if not isinstance(value, Tensor)}
    for name, value in fixed.items():
        if not isinstance(value, bool | int | float | str | None):
            raise InputError(f"the example input {name!r} must be a tensor or a constant, not a {type(value).__name__}")
    if not tensors:
        raise InputError("the example inputs must contain at least one tensor")
    # Explanations take positional arguments in the same order as the model.
    order = {name: position for position, name in enumerate(parameters)}
    names = tuple(sorted(tensors, key=lambda name: order.get(name, len(order))))
    return Inputs((), names, fixed, examples=tensors)


def _names(model: nn.Module, count: int | None) -> tuple[tuple[str, ...], str | None]:
    """The names of ``count`` positional arguments, and the name of the ``*args`` among them."""
    names: list[str] = []
    variadic = None
    parameters = inspect.signature(model.forward).parameters
    for parameter in parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            if count is None:
                raise CaptureError(
                    f"{type(model).__name__}.forward takes *{parameter.name}: give example_inputs to specify how many"
                )
            variadic = parameter.name
            names.extend(f"{parameter.name}_{index}" for index in range(len(names), count))
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            wanted = parameter.default is parameter.empty if count is None else len(names) < count
            if wanted:
                names.append(parameter.name)
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise CaptureError(f"{type(model).__name__}.forward needs the keyword argument {parameter.name!r}")
    if count is None and not names and parameters:
        raise ExamplesNeeded(f"{type(model).__name__}.forward has only optional arguments")
    if not names or (count is not None and len(names) != count):
        raise CaptureError(f"{type(model).__name__}.forward takes {len(names)} inputs, not {count or 'at least one'}")
    return tuple(names), variadic

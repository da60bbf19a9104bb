"""Canonical operations, and the facts about them."""

from __future__ import annotations

import enum
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import fx

REQUIRED = ...


class Family(enum.Enum):
    """A family of operations that share their rules. Each has a file in ``fxlrp/relevance/``."""

    LINEAR = "linear"
    SUM = "sum"
    PRODUCT = "product"
    MATMUL = "matmul"
    ACTIVATION = "activation"
    MAX_POOL = "max pooling"
    AVERAGE = "average"
    NORMALIZATION = "normalization"
    SHAPE = "shape"
    SOFTMAX = "softmax"
    MASK = "mask"
    ATTENTION = "attention"
    EMBEDDING = "embedding"
    RECURRENT = "recurrent"
    TRANSFORM = "linear transform"
    SELECTION = "selection"
    FUNCTION = "function"
    MATRIX_FUNCTION = "matrix function"
    UNKNOWN = "unknown"
    CHECK = "check"
    CUSTOM = "custom"
    COMPOSITE = "composite"
    IDENTITY = "identity"
    NO_RELEVANCE = "no relevance"


class Gate(enum.IntEnum):
    """The gate level of a result: of the factors of a product, the one with the highest level is the gate."""

    NO = 0
    SELF_GATED = 1
    SATURATING = 2
    STATISTIC = 3
    """A scale computed from the values, such as 1/sigma of a normalization: always a constant (Ali et al., 2022)."""


@dataclass(frozen=True)
class OneOf:
    """A requirement that an argument has one of several values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        """The values, in words."""
        return " or ".join(map(repr, self.values))


def satisfies(value: Any, required: Any) -> bool:
    """Whether an argument has a required value, or one of several."""
    if isinstance(required, OneOf):
        return any(satisfies(value, each) for each in required.values)
    return value is required or bool(value == required)


@dataclass(frozen=True)
class Call:
    """The arguments of a call, with the known facts about them.

    Args:
        arguments: The arguments by parameter name.
        operands: The values in the operand positions.
        known: The nodes that are known to have the property in question.
        positive: The nodes that are known to be positive.
        non_negative: The nodes that are known to be non-negative, if that is not the property in question.
    """

    arguments: Mapping[str, Any]
    operands: tuple[Any, ...] = ()
    known: Collection[fx.Node] = ()
    positive: Collection[fx.Node] = ()
    non_negative: Collection[fx.Node] = ()

    def is_positive(self, value: Any) -> bool:
        """Whether a value is known to be positive: a known node, or a number."""
        if isinstance(value, fx.Node):
            return value in self.positive
        return isinstance(value, int | float) and value > 0

    def is_non_negative(self, value: Any) -> bool:
        """Whether a value is known to be non-negative: a known node, or a number."""
        if isinstance(value, fx.Node):
            return value in self.known or value in self.non_negative
        return isinstance(value, int | float) and value >= 0

    def is_finite(self, value: Any) -> bool:
        """Whether a value is known to be finite: a known node, or a number."""
        if isinstance(value, fx.Node):
            return value in self.known
        return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class Operation:
    """A canonical operation.

    The fields from ``allocates`` on are facts that passes rely on. A fact that is not stated is not assumed: without it
    the program is correct but slower. ``tests/vocabulary`` checks every stated fact on values.

    Args:
        name: The ATen name.
        family: The family, which determines the rules that apply.
        function: The function that a canonical node calls.
        parameters: The call's parameters in order, with their defaults; ``...`` marks a required one.
        operands: The parameters through which relevance may flow (a list of tensors counts once for each tensor).
        aliases: Further names of the operation in torch, ``torch.nn.functional``, ``operator`` or ``Tensor``.
        qualified_names: Full names of functions of other libraries that compute it.
        variadic: A parameter that methods also take as several arguments, as in ``x.view(2, 3)``.
        without_relevance: Parameters that may depend on the input but do not receive relevance.
        reads_form: Parameters of which the shape and the type are read, and not the values.
        shifts: Finds the arguments that are added to what is linear in the operands, among the arguments by name; None
            if these are the operands that do not depend on the input.
        held_constant: Parameters that count as constants where an operand depends on the input.
        required_values: Parameters that must have a given value for the rule to be valid.
        multiple_results: Whether the result is a tuple of tensors.
        signatures: The signatures of a user-defined function, in place of ``parameters``.
        keeps_arguments: Whether calls keep their other arguments unchanged, under the names ``args`` and ``kwargs``.
        dims: The number of spatial dimensions of a convolution or a pooling operation; 0 for a dense layer.
        transposes: Whether the operation is a transposed convolution.
        allocates: Whether the result never shares memory with an argument.
        overlaps: Whether elements of the result may share memory with each other, as those of an expanded tensor do.
        in_place: The function that writes the result into the memory of the first operand.
        non_negative: Tells whether the result of a call is never negative.
        positive: Tells whether the result of a call is positive, not counting underflow.
        finite: Tells whether the result of a call is finite if the operands are, not counting overflow.
        keeps_support: Tells whether a positive element of the result of a call comes from a positive element of an
            operand, which receives its relevance if a rule passes relevance on.
        moves: Whether the result consists of elements of the operands, and of numbers given as arguments.
        keeps_elements: Whether every element of the operands is in the result.
        arranges: Whether the result consists of elements of the first operand at positions that do not depend on
            values. Tables fold such operations.
        rectifies: Tells whether a call is a ReLU, ``max(x, 0)``.
        neutral: Whether a linear map that reads an input through this operation is still a first layer.
        gate: The gate level of the result, or a function that computes it from the call.
        scale: Tells whether the result of a call is a positive number without an upper bound, by which a value may be
            scaled, given the nodes that are known to be.
        separates: Whether the results are parts of the operand with meanings of their own, such as a signal and a gate.
        token_operand: The parameter whose integers select rows of a table, and may carry relevance as tokens.
        maps_tokens: Tells whether a call maps the integers of its only operand that is not constant one to one, given
            the constant nodes. The relevance of tokens passes through it unchanged.
        mask_operand: The parameter that may be a numeric or boolean mask.
        is_cheap: Whether computing the result again takes less than keeping it in memory is worth.
        is_size: Whether the result is a Python number that is computed from sizes.
        is_flat: Tells whether the result of a call has two dimensions, ``(batch, features)``.
        makes_integers: Tells whether a call converts its operand to integers, which carry no relevance unless they
            are tokens.
        makes_conditions: Whether the result is True or False, whatever the types of the operands. What is changed in
            place keeps its type.
        keeps_dimensions: Whether the result has the dimensions of its first operand, in the same order.
        is_cast: Whether the result has the values of the operand in another type or on another device.
        rowwise: Tells whether each row along the last dimension of the result of a call is computed from the same row
            of the operands.
        ignores_values: Whether the result depends on the sizes, type and device of the operands, not on their values.
        elementwise: Whether each element of the result is a function of one element of each operand.
        homogeneous: Whether the result is homogeneous of degree one in the operands together.
    """

    name: str
    family: Family
    function: Callable[..., Any]
    parameters: Mapping[str, Any]
    operands: tuple[str, ...] = ("input",)
    aliases: tuple[str, ...] = ()
    qualified_names: tuple[str, ...] = ()
    variadic: str | None = None
    without_relevance: tuple[str, ...] = ()
    reads_form: tuple[str, ...] = ()
    shifts: Callable[[Mapping[str, Any]], Sequence[Any]] | None = None
    held_constant: tuple[str, ...] = ()
    required_values: Mapping[str, Any] = field(default_factory=dict)
    multiple_results: bool = False
    signatures: tuple[inspect.Signature, ...] = ()
    keeps_arguments: bool = False
    dims: int = 0
    transposes: bool = False
    allocates: bool = False
    overlaps: bool = False
    in_place: Callable[..., Any] | None = None
    non_negative: Fact | None = None
    positive: Fact | None = None
    finite: Fact | None = None
    keeps_support: Fact | None = None
    rectifies: Fact | None = None
    moves: bool = False
    keeps_elements: bool = False
    arranges: bool = False
    neutral: bool = False
    gate: Gate | Callable[[Call, Collection[Any]], Gate] = Gate.NO
    scale: Fact | None = None
    separates: bool = False
    token_operand: str | None = None
    maps_tokens: Fact | None = None
    mask_operand: str | None = None
    is_cheap: bool = False
    is_size: bool = False
    is_flat: Fact | None = None
    makes_integers: Fact | None = None
    makes_conditions: bool = False
    elementwise: bool = False
    homogeneous: bool = False
    is_cast: bool = False
    keeps_dimensions: bool = False
    rowwise: Fact | None = None
    ignores_values: bool = False

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Match a call's arguments to the parameters by name, with defaults filled in.

        Raises:
            TypeError: The call does not match the parameters.
        """
        if self.signatures:
            return dict(self._bind_signature(args, kwargs).arguments)
        bound = self._bound_to_names(args, kwargs)
        if bound is not None:
            return bound
        names = list(self.parameters)
        if self.keeps_arguments:
            others = {name: value for name, value in kwargs.items() if name != "input"}
            return {"input": args[0] if args else kwargs["input"], "args": args[1:], "kwargs": others}
        if self.variadic in names:
            first = names.index(self.variadic)
            rest = args[first:]
            one = len(rest) == 1 and not isinstance(rest[0], list | tuple) and self.variadic in self.operands
            if len(rest) > 1 or one or (len(rest) == 1 and isinstance(rest[0], int)):
                args = (*args[:first], tuple(rest))
            if any(isinstance(item, torch.dtype) for item in rest):
                raise TypeError(f"{self.name} does not take a dtype")
        if len(args) > len(names):
            raise TypeError(f"{self.name} takes {len(names)} arguments, not {len(args)}")
        bound = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names:
                name = _PARAMETER_SYNONYMS.get(name, name)
            if name == "input" and "input" not in names:
                # ATen's name of the first parameter, which some functions call otherwise.
                name = names[0]
            if name not in names or name in bound:
                raise TypeError(f"{self.name} does not take the argument {name!r}")
            bound[name] = value
        missing = [name for name in names if name not in bound and self.parameters[name] is REQUIRED]
        if missing:
            raise TypeError(f"{self.name} needs the argument {missing[0]!r}")
        return {name: bound.get(name, self.parameters[name]) for name in names}

    def _bound_to_names(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """What :meth:`bind` returns for a canonical call, as most are; None for others."""
        if self.keeps_arguments or self.variadic is not None or len(args) > len(self.parameters):
            return None
        bound = {**self.parameters}
        bound.update(zip(self.parameters, args, strict=False))
        if kwargs:
            rest = list(self.parameters)[len(args) :]
            for name, value in kwargs.items():
                if name not in rest:
                    return None
                bound[name] = value
        for name in self._required:
            if bound[name] is REQUIRED:
                return None
        return bound

    @cached_property
    def _required(self) -> tuple[str, ...]:
        return tuple(name for name, default in self.parameters.items() if default is REQUIRED)

    def takes(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call matches the parameters."""
        try:
            self.bind(args, kwargs)
        except TypeError:
            return False
        return True

    def _bind_signature(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        problem = TypeError(f"{self.name} has no signature")
        for signature in self.signatures:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError as error:
                problem = error
                continue
            bound.apply_defaults()
            return bound
        raise problem

    def call(self, bound: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The shortest canonical ``args, kwargs`` for bound arguments; the inverse of :meth:`bind`."""
        if self.keeps_arguments:
            return (bound["input"], *bound["args"]), dict(bound["kwargs"])
        if self.signatures:
            whole = next(each for each in self.signatures if set(each.parameters) >= set(bound))
            filled = inspect.BoundArguments(whole, OrderedDict(bound))
            return filled.args, filled.kwargs
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, default in self.parameters.items():
            value = bound[name]
            if name in IGNORED:
                continue
            if default is REQUIRED and not kwargs:
                args.append(value)
            elif isinstance(value, fx.Node) or type(value) is not type(default) or value != default:
                kwargs[name] = value
        return tuple(args), kwargs

    def arguments(self, node: fx.Node) -> dict[str, Any]:
        """The arguments of a canonical node by parameter name."""
        return self.bind(node.args, node.kwargs)

    def operands_of(self, node: fx.Node) -> tuple[Any, ...]:
        """The values in the operand positions, in order: nodes, numbers or None."""
        return self.operands_among(self.arguments(node))

    def with_held(self) -> Operation:
        """This operation with the parameters that it holds constant behind its operands."""
        return replace(self, operands=(*self.operands, *self.held_constant), held_constant=())

    def operands_among(self, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values in the operand positions of bound arguments."""
        operands: list[Any] = []
        for name in self.operands:
            value = arguments[name]
            operands.extend(value if isinstance(value, list | tuple) else (value,))
        return tuple(operands)

    def tells(
        self,
        fact: Fact | None,
        arguments: Mapping[str, Any],
        known: Collection[fx.Node] = (),
        positive: Collection[fx.Node] = (),
        non_negative: Collection[fx.Node] = (),
    ) -> bool:
        """Whether a stated fact holds for a call, given the nodes for which it is known; False if it is not stated."""
        return fact is not None and fact(Call(arguments, self.operands_among(arguments), known, positive, non_negative))

    def gate_of(self, node: fx.Node, dependent: Collection[Any]) -> Gate:
        """Return the gate level of the value of a canonical node.

        Args:
            node: The node.
            dependent: The nodes that depend on an input.
        """
        if isinstance(self.gate, Gate):
            return self.gate
        arguments = self.arguments(node)
        return self.gate(Call(arguments, self.operands_among(arguments)), dependent)


Fact: TypeAlias = Callable[[Call], bool]

# Arguments that affect how a value is computed, but not its result.
IGNORED = ("inplace", "_stacklevel", "memory_format", "non_blocking", "copy")

# Other names of parameters in some of the places where torch provides the operation.
_PARAMETER_SYNONYMS = {
    "self": "input",
    "tensor": "input",
    "x": "input",
    "axis": "dim",
    "axis0": "dim0",
    "axis1": "dim1",
    "mat2": "other",
    "sparse": "input",
    "dense": "other",
    "size": "shape",
    "split_size": "split_size_or_sections",
    "split_sizes": "split_size_or_sections",
    "sections": "indices_or_sections",
    "indices": "indices_or_sections",
    "tensor_indices_or_sections": "indices_or_sections",
    "train": "training",
    "tensors": "operands",
}

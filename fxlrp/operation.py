"""What a canonical operation is, and how a call finds its own."""

from __future__ import annotations

import enum
import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxlrp.errors import InternalError

REQUIRED = ...


class Family(enum.Enum):
    """Operations of one family share their rules: a file each in ``fxlrp/relevance/``."""

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
    EMBEDDING = "embedding"
    RECURRENT = "recurrent"
    CHECK = "check"
    CUSTOM = "custom"
    COMPOSITE = "composite"
    IDENTITY = "identity"
    NO_RELEVANCE = "no relevance"


@dataclass(frozen=True)
class Operation:
    """One canonical operation.

    Args:
        name: The ATen name.
        family: Which rules apply.
        function: What a canonical node calls.
        parameters: The call's parameters in order, with their defaults; ``...`` marks a required one.
        operands: The parameters through which relevance may flow (a list of tensors counts once for each tensor).
        also: Further names under which torch, ``torch.nn.functional``, ``operator`` or ``Tensor`` offer it.
        qualified: Full names of the functions of other libraries that compute it.
        variadic: A parameter that methods also take as several arguments, as in ``x.view(2, 3)``.
        weights: Parameters that may depend on the input and still receive no relevance.
        constants: Parameters that count as constants where an operand depends on the input.
        frozen: Parameters that must have this value for the rule to be right.
        many: Whether the result is a tuple of tensors.
        view: Whether the result may share memory with its input.
        signatures: The forms of the call, instead of ``parameters``, for a function of the user's.
        free: Whether calls keep their other arguments as they are, under the names ``args`` and ``kwargs``.
    """

    name: str
    family: Family
    function: Callable[..., Any]
    parameters: Mapping[str, Any]
    operands: tuple[str, ...] = ("input",)
    also: tuple[str, ...] = ()
    qualified: tuple[str, ...] = ()
    variadic: str | None = None
    weights: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    frozen: Mapping[str, Any] = field(default_factory=dict)
    many: bool = False
    view: bool = False
    free: bool = False
    signatures: tuple[inspect.Signature, ...] = ()

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Match a call's arguments to the parameters by name, with defaults filled in.

        Raises:
            TypeError: The call does not fit the parameters.
        """
        if self.signatures:
            return dict(self._bind_signature(args, kwargs).arguments)
        names = list(self.parameters)
        if self.free:
            others = {name: value for name, value in kwargs.items() if name != "input"}
            return {"input": args[0] if args else kwargs["input"], "args": args[1:], "kwargs": others}
        if self.variadic in names:
            first = names.index(self.variadic)
            rest = args[first:]
            if len(rest) > 1 or (len(rest) == 1 and isinstance(rest[0], int)):
                args = (*args[:first], tuple(rest))
            if any(isinstance(item, torch.dtype) for item in rest):
                raise TypeError(f"{self.name} does not take a dtype")
        if len(args) > len(names):
            raise TypeError(f"{self.name} takes {len(names)} arguments, not {len(args)}")
        bound = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names:
                name = _PARAMETER_SYNONYMS.get(name, name)
            if name not in names or name in bound:
                raise TypeError(f"{self.name} does not take the argument {name!r}")
            bound[name] = value
        missing = [name for name in names if name not in bound and self.parameters[name] is REQUIRED]
        if missing:
            raise TypeError(f"{self.name} lacks the argument {missing[0]!r}")
        return {name: bound.get(name, self.parameters[name]) for name in names}

    def _bind_signature(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        problem = TypeError(f"{self.name} has no form")
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
        if self.free:
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
        arguments = self.arguments(node)
        operands: list[Any] = []
        for name in self.operands:
            value = arguments[name]
            operands.extend(value if isinstance(value, list | tuple) else (value,))
        return tuple(operands)


# Arguments that change how a value is computed, never what it is.
IGNORED = ("inplace", "_stacklevel", "memory_format", "non_blocking", "copy")

# Other names that torch has for a parameter, in one of the places where it offers the operation.
_PARAMETER_SYNONYMS = {
    "self": "input",
    "tensor": "input",
    "x": "input",
    "axis": "dim",
    "axis0": "dim0",
    "axis1": "dim1",
    "mat2": "other",
    "size": "shape",
    "split_size": "split_size_or_sections",
    "split_sizes": "split_size_or_sections",
    "train": "training",
    "tensors": "operands",
}


@dataclass(frozen=True)
class Spelling:
    """How a model may write an operation."""

    operation: Operation
    inplace: bool


_NAMESPACES = (torch, F, torch.Tensor, operator, torch.special, torch._C._nn, torch.ops.aten)


def _spellings(operation: Operation) -> Iterator[tuple[Any, Spelling]]:
    for qualified in operation.qualified:
        yield qualified, Spelling(operation, inplace=False)
    # A function of the user's may share its name with one of torch's.
    own_name = () if operation.signatures else (operation.name,)
    for name in (*own_name, *operation.also):
        for namespace in _NAMESPACES:
            inplace_name = f"i{name}" if namespace is operator else f"{name}_"
            for spelled in (name, f"__{name}__", inplace_name, f"__i{name}__"):
                function = getattr(namespace, spelled, None)
                if callable(function) and not isinstance(function, type):
                    inplace = spelled in (inplace_name, f"__i{name}__") or name == "setitem"
                    yield function, Spelling(operation, inplace)


class Vocabulary:
    """Finds the canonical operation of a call or of a canonical node."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        """Index ``operations``; of two operations with one spelling, the first wins."""
        self.operations: dict[str, Operation] = {}
        self._spellings: dict[Any, Spelling] = {}
        for operation in operations:
            if operation.name in self.operations:
                raise InternalError(f"the operation {operation.name!r} is listed twice")
            self.operations[operation.name] = operation
        # What an operation calls means that operation, whoever else shares its name.
        for operation in self.operations.values():
            self._spellings.setdefault(operation.function, Spelling(operation, inplace=False))
        for operation in self.operations.values():
            for function, spelling in _spellings(operation):
                self._spellings.setdefault(function, spelling)

    def __deepcopy__(self, memo: dict[int, Any]) -> Vocabulary:
        """Itself: a vocabulary never changes."""
        return self

    def extend(self, operations: Iterable[Operation]) -> Vocabulary:
        """A vocabulary in which ``operations`` take precedence over these."""
        added = list(operations)
        names = {operation.name for operation in added}
        return Vocabulary([*added, *(old for old in self.operations.values() if old.name not in names)])

    def functions(self, family: Family) -> tuple[Callable[..., Any], ...]:
        """What the operations of a family call."""
        return tuple(operation.function for operation in self.operations.values() if operation.family is family)

    def spelling(self, target: Any) -> Spelling | None:
        """The operation that a call of ``target`` (a function or a method's name) means, if it is known."""
        if isinstance(target, str):
            target = getattr(torch.Tensor, target, None)
        try:
            found = self._spellings.get(target)
        except TypeError:
            return None
        if found is None:
            qualified = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
            found = self._spellings.get(qualified)
        return found

    def operation(self, node: fx.Node) -> Operation | None:
        """The operation of a canonical node; None for placeholders, constants and unknown calls."""
        if node.op != "call_function":
            return None
        found = self.spelling(node.target)
        return found.operation if found else None

"""Find the canonical operation of a call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._ops import OpOverloadPacket

from fxlrp.errors import InternalError
from fxlrp.operation import Family, Operation


@dataclass(frozen=True)
class Spelling:
    """How a model may write an operation."""

    operation: Operation
    inplace: bool


_SPARSE: Any = vars(torch._C)["_sparse"]
# Functions in Python call the last one of these names, for instance with a list of tensors.
_IN_PYTHON: Any = vars(torch._C)["_VariableFunctions"]
_NAMESPACES: tuple[Any, ...] = (torch, F, torch.Tensor, operator, torch.special, torch._C._nn, _SPARSE, _IN_PYTHON)


def _written(name: str, in_place: str) -> dict[str, bool]:
    """The ways to write the name of an operation, and whether each changes its operand."""
    changes = name == "setitem"
    plain = dict.fromkeys((name, f"__{name}__", f"{name}_copy"), changes)
    return {**plain, in_place: True, f"__i{name}__": True}


def _key(function: Any) -> Any:
    """The key of a function: of one of ``torch.ops`` its name, such as ``aten.add``."""
    return str(function) if isinstance(function, OpOverloadPacket) else function


def _name_in_aten(name: str) -> str:
    """The key of a function of ``torch.ops.aten``. Those that nobody calls are not looked up, which is slow."""
    return f"aten.{name}"


def _spellings(operation: Operation, members: Sequence[Collection[str]]) -> Iterator[tuple[Any, Spelling]]:
    spelling = {inplace: Spelling(operation, inplace) for inplace in (False, True)}
    for qualified in operation.qualified_names:
        yield qualified, spelling[False]
    # A user-defined function may share its name with one of torch's.
    own_name = () if operation.signatures else (operation.name,)
    for name in (*own_name, *operation.aliases):
        in_torch, in_operator = _written(name, f"{name}_"), _written(name, f"i{name}")
        for namespace, its_members in zip(_NAMESPACES, members, strict=True):
            written = in_operator if namespace is operator else in_torch
            for spelled in filter(its_members.__contains__, written):
                function = getattr(namespace, spelled)
                if callable(function) and not isinstance(function, type):
                    yield function, spelling[written[spelled]]
                if namespace is torch.special:
                    yield _name_in_aten(f"special_{spelled}"), spelling[written[spelled]]
        for spelled, inplace in in_torch.items():
            yield _name_in_aten(spelled), spelling[inplace]


class Vocabulary:
    """Finds the canonical operation of a call or of a canonical node."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        """Index ``operations``; if two operations have the same spelling, the first wins."""
        self.operations: dict[str, Operation] = {}
        self._spellings: dict[Any, Spelling] = {}
        for operation in operations:
            if operation.name in self.operations:
                raise InternalError(f"the operation {operation.name!r} is listed twice")
            self.operations[operation.name] = operation
        # The function of an operation means that operation, even if another one has the same name.
        for operation in self.operations.values():
            self._spellings.setdefault(_key(operation.function), Spelling(operation, inplace=False))
        members = [frozenset(dir(namespace)) for namespace in _NAMESPACES]
        for operation in self.operations.values():
            for function, spelling in _spellings(operation, members):
                self._spellings.setdefault(function, spelling)

    def __deepcopy__(self, memo: dict[int, Any]) -> Vocabulary:
        """Return the vocabulary itself, because it never changes."""
        return self

    def extend(self, operations: Iterable[Operation]) -> Vocabulary:
        """Return a vocabulary in which ``operations`` take precedence over the present ones."""
        added = list(operations)
        if not added:
            return self
        names = {operation.name for operation in added}
        return Vocabulary([*added, *(old for old in self.operations.values() if old.name not in names)])

    def functions(self, family: Family) -> tuple[Callable[..., Any], ...]:
        """The functions that the operations of a family call."""
        return tuple(operation.function for operation in self.operations.values() if operation.family is family)

    def spelling(self, target: Any) -> Spelling | None:
        """The operation that a call of ``target`` (a function, or the name of a method) means; None if unknown."""
        if isinstance(target, str):
            target = getattr(torch.Tensor, target, None)
        try:
            found = self._spellings.get(_key(target))
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

    def result_index(self, node: fx.Node) -> int | None:
        """The index of the result that a node selects; None for other nodes, such as one that indexes a tensor."""
        if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
            return None
        source, index = self.operation(node.args[0]), node.args[1]
        return index if source is not None and source.multiple_results and isinstance(index, int) else None

"""Find the canonical operation of a call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

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
_NAMESPACES = (torch, F, torch.Tensor, operator, torch.special, torch._C._nn, _SPARSE, torch.ops.aten, _IN_PYTHON)


def _spellings(operation: Operation) -> Iterator[tuple[Any, Spelling]]:
    for qualified in operation.qualified_names:
        yield qualified, Spelling(operation, inplace=False)
    # A user-defined function may share its name with one of torch's.
    own_name = () if operation.signatures else (operation.name,)
    for name in (*own_name, *operation.aliases):
        for namespace in _NAMESPACES:
            inplace_name = f"i{name}" if namespace is operator else f"{name}_"
            for spelled in (name, f"__{name}__", f"{name}_copy", inplace_name, f"__i{name}__"):
                function = getattr(namespace, spelled, None)
                if callable(function) and not isinstance(function, type):
                    inplace = spelled in (inplace_name, f"__i{name}__") or name == "setitem"
                    yield function, Spelling(operation, inplace)


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
            self._spellings.setdefault(operation.function, Spelling(operation, inplace=False))
        for operation in self.operations.values():
            for function, spelling in _spellings(operation):
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

    def result_index(self, node: fx.Node) -> int | None:
        """The index of the result that a node selects; None for other nodes, such as one that indexes a tensor."""
        if node.target is not operator.getitem or not isinstance(node.args[0], fx.Node):
            return None
        source, index = self.operation(node.args[0]), node.args[1]
        return index if source is not None and source.multiple_results and isinstance(index, int) else None

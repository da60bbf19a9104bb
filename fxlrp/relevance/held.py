"""A call whose operands move while all that its rule holds constant keeps its value.

Every rule that passes on multiples of its operands describes an affine map at an input: ``z = sum_i A_i x_i + b``. What
the operation computes beyond that is held constant: gates, attention weights, the statistics of norms, the ratio of an
activation to its operand. An operation that is affine in the operands that receive relevance is this map itself, with
its other arguments as they are. For all others the rule states it, as :class:`Frozen`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.operation import Operation


@dataclass(frozen=True)
class Held:
    """A call at an input.

    Args:
        operation: The canonical operation.
        function: The function that the node calls.
        arguments: The values of its arguments, by name.
        out: Its result.
        receivers: The positions of the operands that receive relevance, which may move.
        lists: The names of the arguments that are lists of operands; any other tuple is the value of one operand.
    """

    operation: Operation
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    out: Any
    receivers: tuple[int, ...]
    lists: frozenset[str] = frozenset()

    @property
    def operands(self) -> tuple[Any, ...]:
        """The operands by position."""
        return tuple(each for name in self.operation.operands for each in self._values(name))

    def _values(self, name: str) -> list[Any]:
        return list(self.arguments[name]) if name in self.lists else [self.arguments[name]]

    def at(self, moved: Mapping[int, Any]) -> Any:
        """The result of the operation for other operands, by position; the rest of the call stays."""
        replaced, position = dict(self.arguments), 0
        for name in self.operation.operands:
            values = [moved.get(position + index, old) for index, old in enumerate(self._values(name))]
            position += len(values)
            replaced[name] = values if name in self.lists else values[0]
        args, kwargs = self.operation.call(replaced)
        return self.function(*args, **kwargs)


@dataclass(frozen=True)
class Frozen:
    """What a rule holds constant inside an operation.

    Args:
        what: What is constant, in words.
        forward: Computes the affine map, given the call at the input and the operands by position.
        least: The number of operands that must receive relevance for anything to be held constant.
    """

    what: str
    forward: Callable[[Held, Mapping[int, Any]], Any]
    least: int = 1


def _derivative(held: Held, moved: Mapping[int, Any]) -> Any:
    """``J v``: an operation that is homogeneous of degree one, with its derivative held constant.

    Operands that do not move contribute ``J`` times their value.
    """
    own = {position: each for position, each in enumerate(held.operands) if _is_real(each)}

    def of_operands(*operands: Tensor) -> Any:
        return held.at(dict(zip(own, operands, strict=True)))

    directions = tuple(moved.get(position, each) for position, each in own.items())
    return torch.func.jvp(of_operands, tuple(own.values()), directions)[1]


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _in_shares(held: Held, moved: Mapping[int, Any]) -> Any:
    """The mean over the factors of a product: each moves while the others keep their values."""
    return sum(held.at({position: value}) for position, value in moved.items()) / len(moved)


SELECTED = Frozen("which elements are selected", _derivative)
FACTORS = Frozen("each factor, in the share of the others", _in_shares, least=2)

"""The bounds of the inputs of ZBox: a number, one number for each channel, or a tensor."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fxlrp.arguments import as_tensor, shown
from fxlrp.errors import RuleError
from fxlrp.integers import is_integer
from fxlrp.rules.rule import number


@dataclass(frozen=True)
class TensorBound:
    """A bound that broadcasts to the input of the first layer, such as one number for each pixel.

    Args:
        shape: The shape of the tensor.
        values: Its elements, in order.
    """

    shape: tuple[int, ...]
    values: tuple[float, ...]

    @staticmethod
    def of(shape: Any, values: Any) -> TensorBound:
        """Return the bound of a shape and elements that anyone may have written.

        Raises:
            RuleError: They are not sizes and finite numbers, or their counts differ.
        """
        sizes = [each for each in shape if is_integer(each) and each > 0] if isinstance(shape, list | tuple) else []
        found = [number(each) for each in values] if isinstance(values, list | tuple) else []
        elements = [float(each) for each in found if each is not None]
        is_whole = isinstance(shape, list | tuple) and isinstance(values, list | tuple)
        if not is_whole or len(sizes) != len(shape) or not math.prod(sizes) == len(elements) == len(values):
            raise RuleError(
                "a tensor must have a shape of positive sizes, and as many finite numbers, not "
                f"shape={shown(shape)} and values={shown(values)}"
            )
        return TensorBound(tuple(sizes), tuple(elements))

    def tensor(self) -> Tensor:
        """Return the bound as a tensor in double precision."""
        return torch.tensor(self.values, dtype=torch.float64).reshape(self.shape)

    def __str__(self) -> str:
        """The shape, as in ``tensor of 1x3x1x1``."""
        return f"tensor of {'x'.join(map(str, self.shape))}"

    def __repr__(self) -> str:
        """The shape and a digest of the elements, of which there may be many."""
        digest = hashlib.sha256(struct.pack(f"{len(self.values)}d", *self.values)).hexdigest()
        return f"TensorBound(shape={self.shape}, digest={digest[:16]!r})"


Bound: TypeAlias = "float | tuple[float, ...] | TensorBound"


def bound(name: str, value: Any) -> Bound:
    """Convert what the user passes as a bound: a number, a sequence of numbers, an array or a tensor.

    Raises:
        RuleError: It is none of these, or an element is not a finite number.
    """
    if isinstance(value, TensorBound):
        return value
    if isinstance(value, Tensor) or hasattr(value, "__array__"):
        return _of_tensor(name, value)
    single = number(value)
    if single is not None:
        return float(single)
    found = [number(item) for item in value] if isinstance(value, list | tuple) else []
    numbers = tuple(float(item) for item in found if item is not None)
    if not found or len(numbers) != len(found):
        raise RuleError(
            f"ZBox: {name} must be a finite number, one number for each channel, or a tensor that broadcasts to the "
            f"input, not {shown(value)}"
        )
    return numbers if len(numbers) > 1 else numbers[0]


def _of_tensor(name: str, value: Any) -> Bound:
    tensor = as_tensor(f"ZBox: {name}", value, RuleError)
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.numel() == 0:
        raise RuleError(
            f"ZBox: {name} must contain real numbers, but has the type {tensor.dtype}, {tensor.numel()} of them"
        )
    values = tuple(float(item) for item in tensor.double().flatten().tolist())
    if any(number(item) is None for item in values):
        raise RuleError(f"ZBox: {name} contains NaN, infinity or a number that single precision does not hold")
    if len(values) == 1:
        return values[0]
    return values if tensor.dim() == 1 else TensorBound(tuple(tensor.shape), values)


def check_bounds(low: Bound, high: Bound) -> None:
    """Check that ``low`` and ``high`` fit each other, and that no low bound exceeds the high one.

    Raises:
        RuleError: They do not.
    """
    kinds = {type(each) for each in (low, high) if not isinstance(each, float)}
    if len(kinds) > 1:
        raise RuleError(
            "ZBox: one bound has a number for each channel, and the other is a tensor with several dimensions"
        )
    lows, highs = (_tensor(each) for each in (low, high))
    try:
        lows, highs = torch.broadcast_tensors(lows, highs)
    except RuntimeError as error:
        if kinds == {tuple}:
            raise RuleError(f"ZBox: low has {lows.numel()} channels and high has {highs.numel()}") from error
        raise RuleError(f"ZBox: low, {low}, and high, {high}, do not broadcast") from error
    if bool((lows > highs).any()):
        raise RuleError(f"ZBox: low={low} exceeds high={high}")


def _tensor(value: Bound) -> Tensor:
    return value.tensor() if isinstance(value, TensorBound) else torch.tensor(value, dtype=torch.float64)

"""The bounds of the inputs of ZBox: a number, one number for each channel, or a tensor."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fxlrp.errors import RuleError
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
            f"input, not {value!r}"
        )
    return numbers if len(numbers) > 1 else numbers[0]


def _of_tensor(name: str, value: Any) -> Bound:
    tensor = torch.as_tensor(value).detach()
    if tensor.is_complex() or tensor.dtype == torch.bool or tensor.numel() == 0:
        raise RuleError(
            f"ZBox: {name} must contain real numbers, but has the type {tensor.dtype}, {tensor.numel()} of them"
        )
    values = tuple(float(item) for item in tensor.double().flatten().tolist())
    if any(number(item) is None for item in values):
        raise RuleError(f"ZBox: {name} contains NaN or infinity")
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

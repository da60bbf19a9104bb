"""The absolute relevance that gets the full color."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxlrp.arguments import shown
from fxlrp.errors import InputError

QUANTILE = 0.995


@dataclass(frozen=True)
class Scale:
    """The absolute relevance that gets the full color, and how it was chosen.

    Args:
        value: The relevance; zero if there is none, where everything is white.
        how: How it was chosen, in words.
    """

    value: float
    how: str

    def share(self, relevance: Tensor) -> Tensor:
        """Relevance as a share of the scale, in [-1, 1]."""
        return (relevance / self.value).clamp(-1, 1) if self.value else torch.zeros_like(relevance)

    def __str__(self) -> str:
        """The scale and how it was chosen."""
        return f"full color at ±{number(self.value)} ({self.how})" if self.value else self.how


def checked_quantile(quantile: Any) -> float:
    """Return the argument ``quantile=`` of the pictures.

    Raises:
        InputError: It is not in (0, 1].
    """
    return real("quantile", quantile, "a number above 0 and at most 1", lambda value: 0 < value <= 1)


def scale_of(relevance: Tensor, quantile: float = QUANTILE, scale: float | None = None, whose: str = "") -> Scale:
    """Choose the scale of a picture.

    Args:
        relevance: All relevance of the picture, in double precision.
        quantile: The quantile of the absolute relevance that gets the full color.
        scale: The absolute relevance that gets the full color, in place of the quantile.
        whose: What the quantile is taken of, if not of one picture.

    Raises:
        InputError: The quantile is not in (0, 1], or the scale is not a positive number.
    """
    quantile = checked_quantile(quantile)
    if scale is not None:
        what = "a positive number: it is the relevance that gets the full color"
        return Scale(real("scale", scale, what, lambda value: 0 < value < math.inf), "given")
    ordered = relevance.abs().flatten().sort().values
    largest = float(ordered[-1])
    if not largest:
        return Scale(0.0, "all relevance is zero")
    position = quantile * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    chosen = float(torch.lerp(ordered[below], ordered[above], position - below))
    if not chosen:
        return Scale(largest, f"the largest{whose}, because the {quantile:g} quantile is zero")
    return Scale(chosen, f"the largest{whose}" if quantile == 1 else f"the {quantile:g} quantile{whose}")


def real(name: str, value: Any, what: str, fits: Callable[[float], bool]) -> float:
    """Return an argument as a number.

    Args:
        name: The name of the argument.
        value: A number, or a tensor or an array with one.
        what: What it must be, for errors.
        fits: Whether a number is that.

    Raises:
        InputError: It is not.
    """
    is_number = hasattr(value, "item") and getattr(value, "ndim", 0) == 0 and not getattr(value, "is_meta", False)
    found = value.item() if is_number else value
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not fits(found):
        raise InputError(f"{name}={shown(value)} is not {what}")
    return float(found)


def number(value: float) -> str:
    """A number with three significant digits."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e+")


def signed(value: float) -> str:
    """A number with its sign; zero has none."""
    return f"{'+' if value > 0 else ''}{number(value)}" if value else "0"


def minus(text: str) -> str:
    """Text whose hyphens are minus signs, which are as wide as plus signs."""
    return text.replace("-", "−")

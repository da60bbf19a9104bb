"""The rules for the first linear map of a model, whose inputs are bounded or not to be multiplied with.

``specs.py`` explains the notation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fxlrp.rules.bounds import TensorBound, bound, check_bounds
from fxlrp.rules.rule import Rule, Stabilized, StabilizedWithBias, require_number


@dataclass(frozen=True)
class ZBox(Rule):
    """LRP-z^B for inputs with known bounds, such as pixels (Montavon et al., 2017).

    ``R_x = x * W^T r - low * W+^T r - high * W-^T r`` with ``r = R / s(f(W; x) - f(W+; low) - f(W-; high))``. For the
    first linear map.

    A sequence, or an array or tensor of one dimension, has one number for each channel: dimension 1 of the input
    ``(batch, channels, ...)`` of a convolution, and the last dimension of the input of a dense layer. An array or a
    tensor of several dimensions broadcasts to the input of the layer: ``(1, 3, 1, 1)`` has one number for each channel
    of an image, ``(3, 224, 224)`` one for each channel of each pixel.

    Args:
        low: The smallest value that an input can take: a number, one number for each channel, or a tensor.
        high: The largest value that an input can take, in the same form or as a number.
        stabilizer: Keeps the denominator away from zero.

    Raises:
        RuleError: A bound is not of these forms or not finite, or ``low`` exceeds ``high``.

    Example:
        >>> import fxlrp
        >>> print(fxlrp.rules.ZBox(low=(-2.1, -2.0, -1.8), high=(2.2, 2.4, 2.6)))
        ZBox(low=(-2.1, -2, -1.8), high=(2.2, 2.4, 2.6))
    """

    low: float | Sequence[float] | Tensor | TensorBound
    high: float | Sequence[float] | Tensor | TensorBound
    stabilizer: float = 1e-6

    def __post_init__(self) -> None:
        """Check the bounds, and make them numbers of Python."""
        require_number(self, "stabilizer")
        low, high = bound("low", self.low), bound("high", self.high)
        check_bounds(low, high)
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)


@dataclass(frozen=True)
class WSquare(StabilizedWithBias):
    """LRP-w^2: relevance in proportion to the squared weights, for any input (Montavon et al., 2017).

    ``R_x = (W^2)^T (R / s(f(W^2, b^2; 1)))``. For the first linear map.

    Args:
        stabilizer: Keeps the denominator away from zero.
        bias: Whether the denominator includes the bias.
    """


@dataclass(frozen=True)
class Flat(Stabilized):
    """LRP-flat: relevance spread evenly over the receptive field (Lapuschkin et al., 2019).

    ``R_x = 1^T (R / s(f(1, 0; 1)))``. For the first linear map.

    All features that a dense layer reads receive the same relevance, of which :func:`fxlrp.compile` warns.

    Args:
        stabilizer: Keeps the denominator away from zero.
    """

    even: ClassVar[bool] = True

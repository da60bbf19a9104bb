"""LRP-epsilon with other stabilizers than a constant. ``specs.py`` explains the notation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxlrp.arguments import shown
from fxlrp.errors import RuleError
from fxlrp.integers import is_integer
from fxlrp.rules.rule import ByEpsilon, require_flag


@dataclass(frozen=True)
class ClippedEpsilon(ByEpsilon):
    """LRP-epsilon that only moves sums which are smaller than epsilon.

    ``R_x = x * W^T(R / s(z))`` with ``s(z) = sgn(z) * max(|z|, epsilon)``, the stabilizer of zennit with ``clip=True``
    (Anders et al., 2021). Larger sums lose no relevance. For linear maps, sums, averages and matrix products.

    Args:
        epsilon: The smallest absolute value of the denominator. 0 gives LRP-0, with ``0/0 = 0``.
        bias: Whether the denominator includes the bias, which then absorbs its share.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number.

    Example:
        >>> import torch, fxlrp
        >>> layer = torch.nn.Linear(3, 2).eval()
        >>> explain = fxlrp.compile(layer, rules=[("linear", fxlrp.rules.ClippedEpsilon(0.1))])
        >>> explain(torch.ones(1, 3), target=0).shape
        torch.Size([1, 3])
    """


@dataclass(frozen=True)
class RelativeEpsilon(ByEpsilon):
    """LRP-epsilon with an epsilon relative to the size of the sums.

    ``R_x = x * W^T(R / s(z))`` with ``s(z) = z + e * sgn(z)`` and ``e = epsilon * sqrt(mean(z^2))``, the stabilizer of
    zennit with ``norm_scale=True`` (Anders et al., 2021). The mean is taken over ``dims``. The explanation does not
    change if a layer is scaled. For linear maps, sums, averages and matrix products.

    Args:
        epsilon: The stabilizer relative to the root mean square of the sums. 0 gives LRP-0, with ``0/0 = 0``.
        bias: Whether the denominator includes the bias, which then absorbs its share.
        clip: Whether the stabilizer is ``sgn(z) * max(|z|, e)`` instead, as in :class:`ClippedEpsilon`.
        dims: The dimensions of the mean. None means all but the first, so that each sample has its own ``e``.

    Raises:
        RuleError: ``epsilon`` is negative or not a finite number, or ``dims`` is not a tuple of integers.

    Example:
        >>> import torch, fxlrp
        >>> layer = torch.nn.Linear(3, 2).eval()
        >>> explain = fxlrp.compile(layer, rules=[("linear", fxlrp.rules.RelativeEpsilon(0.01))])
        >>> explain(torch.ones(1, 3), target=0).shape
        torch.Size([1, 3])
    """

    rowwise: ClassVar[bool] = False

    epsilon: float = 0.01
    clip: bool = False
    dims: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        require_flag(self, "clip")
        if self.dims is None:
            return
        dims = tuple(self.dims) if isinstance(self.dims, list | tuple) else ()
        if not dims or not all(map(is_integer, dims)):
            raise RuleError(f"RelativeEpsilon: dims must be a tuple of integers or None, not {shown(self.dims)}")
        object.__setattr__(self, "dims", dims)

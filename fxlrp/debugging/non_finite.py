"""Count the NaN and infinite elements of a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor


@dataclass(frozen=True)
class NotFinite:
    """The number of elements that are NaN, and of those that are infinite.

    Args:
        nan: The number of NaN elements.
        inf: The number of infinite elements, of either sign.

    Example:
        >>> import torch
        >>> print(NotFinite.of(torch.tensor([1.0, float("inf"), float("nan")])))
        1 NaN, 1 Inf
    """

    nan: int = 0
    inf: int = 0

    @staticmethod
    def of(value: Any) -> NotFinite:
        """Count the elements of a tensor, or of all tensors in a structure.

        Args:
            value: A tensor, or a structure such as a tuple. Other values in it count as finite.
        """
        nan = inf = 0
        for each in pytree.tree_leaves(value):
            if isinstance(each, Tensor) and (each.is_floating_point() or each.is_complex()):
                stored = _stored(each)
                bad = stored.numel() - int(torch.isfinite(stored).sum())
                own_nan = int(stored.isnan().sum()) if bad else 0
                nan, inf = nan + own_nan, inf + bad - own_nan
        return NotFinite(nan, inf)

    def __bool__(self) -> bool:
        """Whether any element is not finite."""
        return bool(self.nan or self.inf)

    def __str__(self) -> str:
        """Return the counts as in ``3 NaN, 1 Inf``; empty if all elements are finite."""
        counts = ((self.nan, "NaN"), (self.inf, "Inf"))
        return ", ".join(f"{count} {name}" for count, name in counts if count)


def _stored(value: Tensor) -> Tensor:
    """The elements that a tensor stores: a sparse constant of a graph is a value, too."""
    if value.layout == torch.sparse_coo:
        return value.coalesce().values()
    return value if value.layout == torch.strided else value.values()

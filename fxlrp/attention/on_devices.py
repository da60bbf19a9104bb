"""Attention of tensors that lie on several devices: each device computes the attention of its part of the batch.

The kernels of a CPU and the blocks of queries do not know ``DTensor``. Attention mixes positions and features, but no
samples and heads, so parts of these are computed apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxlrp.layouts import REPLICATE, Layout, joined, layout_of, local_part, places_of


@dataclass(frozen=True)
class Parts:
    """How the operands of attention are divided.

    Args:
        mesh: The mesh of devices.
        dims: For each dimension of the mesh the dimension that is divided, counted from the end; None if none is.
    """

    mesh: Any
    dims: tuple[int | None, ...]

    @classmethod
    def of(cls, *operands: Tensor, shares_heads: bool) -> Parts | None:
        """Return how queries, keys and values are divided; None if they lie on one device.

        If heads of queries share those of keys and values, a device has all that share one.
        """
        places = [found for found in map(places_of, operands) if found is not None]
        if not places:
            return None
        mesh = places[0].mesh
        return cls(mesh, tuple(_divided(operands, index, shares_heads) for index in range(mesh.ndim)))

    def of_operand(self, value: Tensor) -> Tensor:
        """The part of an operand, a mask or a cotangent on this device; all of a dimension that is broadcast."""
        return local_part(value, self.mesh, self._layout(value.shape))

    def whole(self, part: Tensor, shape: Sequence[int]) -> Tensor:
        """The tensor of a shape of which every device has a part."""
        return joined(part, self.mesh, self._layout(shape), shape)

    def _layout(self, shape: Sequence[int]) -> Layout:
        sizes = len(shape)
        return tuple(REPLICATE if dim is None or sizes < -dim or shape[dim] == 1 else sizes + dim for dim in self.dims)


def _divided(operands: Sequence[Tensor], index: int, shares_heads: bool) -> int | None:
    """The dimension of samples or heads that a dimension of the mesh divides, if all operands have it."""
    for operand in operands:
        places = places_of(operand)
        if places is None:
            continue
        entry = layout_of(places.placements)[index]
        dim = entry - operand.dim() if isinstance(entry, int) else -1
        sizes = {each.shape[dim] if each.dim() >= -dim else 1 for each in operands}
        is_even = shares_heads and dim == -3 and not any(size % places.mesh.size(index) for size in sizes)
        if dim < -2 and (len(sizes) == 1 or is_even):
            return dim
    return None

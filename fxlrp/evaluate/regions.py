"""The regions of an input that are flipped together, and their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fxlrp.arguments import shown
from fxlrp.errors import InputError
from fxlrp.integers import is_integer

Width: TypeAlias = "int | Sequence[int]"


@dataclass(frozen=True, eq=False)
class Regions:
    """Squares of pixels, spans of tokens or of a signal, or single features.

    Args:
        dims: The dimensions of the input that are positions, in ascending order.
        labels: The region of each position, an integer tensor of the shape of the positions.
        count: The number of regions.
    """

    dims: tuple[int, ...]
    labels: Tensor
    count: int

    @staticmethod
    def of(x: Tensor, dims: Sequence[int] | None, width: Width) -> Regions:
        """Divide the positions of an input into regions.

        Args:
            x: The input, ``(batch, ...)``.
            dims: The dimensions that are positions. None means those after the channels of floating-point inputs with
                at least three dimensions, and dimension 1 of others.
            width: The width of a region, or one width for each dimension of positions.

        Raises:
            InputError: The dimensions or the widths do not fit the input.
        """
        if x.dim() < 2:
            raise InputError(f"an input of shape {tuple(x.shape)} has no positions: it must be (batch, ...)")
        after_channels = tuple(range(2, x.dim())) if x.is_floating_point() and x.dim() > 2 else (1,)
        chosen = after_channels if dims is None else tuple(dims) if isinstance(dims, Sequence) else ()
        found = tuple(sorted(dim + x.dim() if dim < 0 else dim for dim in chosen if is_integer(dim)))
        if not 0 < len(set(found)) == len(chosen) or any(dim not in range(1, x.dim()) for dim in found):
            raise InputError(
                f"dims={shown(dims)} must contain different dimensions, after the batch, of an input of shape "
                f"{tuple(x.shape)}"
            )
        widths = tuple(width) if isinstance(width, Sequence) else (width,) * len(found)
        if len(widths) != len(found) or not all(is_integer(each) and each > 0 for each in widths):
            raise InputError(
                f"region={shown(width)} must be a positive integer, or one for each of {len(found)} dimensions"
            )
        labels, count = torch.zeros((), dtype=torch.long, device=x.device), 1
        for dim, each in zip(found, widths, strict=True):
            along = -(-x.shape[dim] // each)
            labels = labels.unsqueeze(-1) * along + torch.arange(x.shape[dim], device=x.device) // each
            count *= along
        return Regions(found, labels, count)

    def of_positions(self, relevance: Tensor, x: Tensor, name: str) -> Tensor:
        """Return the relevance of each position, ``(batch, positions ...)``.

        Args:
            relevance: Of the shape of the input, in which dimensions other than those of positions may have size 1 or
                be left out. The relevance of tokens may also have the features of their embeddings behind.
            x: The input.
            name: The name of the explanation, for errors.

        Raises:
            InputError: The shape does not fit, or the relevance contains NaN or infinity.
        """
        if not isinstance(relevance, Tensor):
            raise InputError(f"the relevance of {name!r} is a {type(relevance).__name__}, not one tensor")
        relevance = relevance.detach().to(x.device)
        if relevance.dtype not in (torch.float32, torch.float64):
            relevance = relevance.float()
        positions = (len(x), *(x.shape[dim] for dim in self.dims))
        same_dims = relevance.dim() == x.dim()
        if tuple(relevance.shape) == positions:
            summed = relevance
        elif same_dims and all(
            size == wanted or (dim not in (0, *self.dims) and size == 1)
            for dim, (size, wanted) in enumerate(zip(relevance.shape, x.shape, strict=True))
        ):
            summed = relevance.sum([dim for dim in range(1, x.dim()) if dim not in self.dims])
        elif x.dim() == len(positions) and tuple(relevance.shape[: x.dim()]) == positions:
            summed = relevance.flatten(x.dim()).sum(-1)
        else:
            raise InputError(
                f"the relevance of {name!r} has the shape {tuple(relevance.shape)}, which does not fit an input of "
                f"shape {tuple(x.shape)} with positions {positions[1:]}"
            )
        if not bool(summed.isfinite().all()):
            raise InputError(f"the relevance of {name!r} contains NaN or infinity")
        return summed

    def sums(self, values: Tensor) -> Tensor:
        """Add up values of positions, ``(batch, positions ...)``, in each region, ``(batch, regions)``."""
        zeros = values.new_zeros(len(values), self.count)
        return zeros.index_add(1, self.labels.flatten(), values.flatten(1))

    def at_positions(self, values: Tensor) -> Tensor:
        """Return the values of the regions, ``(batch, regions)``, at each position."""
        return values[:, self.labels.flatten()].reshape(len(values), *self.labels.shape)

    def as_input(self, values: Tensor, x: Tensor) -> Tensor:
        """Return values of positions in a shape that broadcasts to the input."""
        return values.reshape(len(values), *(x.shape[dim] if dim in self.dims else 1 for dim in range(1, x.dim())))


def ranks(relevance: Tensor, candidates: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rank of each region: 0 for the most relevant. Regions that are no candidates come last.

    Args:
        relevance: The relevance, ``(batch, regions)``.
        candidates: Whether a region may be flipped, of the same shape.
        generator: A generator of the CPU, which decides between regions of equal relevance.
    """
    keys = torch.rand(relevance.shape, generator=generator)
    shuffled = keys.argsort(1).to(relevance.device)
    values = torch.where(candidates, relevance, -torch.inf).gather(1, shuffled)
    order = shuffled.gather(1, torch.sort(values, dim=1, descending=True, stable=True).indices)
    numbers = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, numbers)

"""Conditions on relevance: only the relevance of chosen channels of a value is passed on (Achtibat et al., 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fxlrp.arguments import shown
from fxlrp.capture.lock import is_compiling
from fxlrp.errors import InputError

Condition: TypeAlias = "int | Sequence[int] | Tensor | Callable[[Tensor], Tensor]"

_ACCEPTED = (
    "a channel, a list of channels, a boolean mask that broadcasts to the value, or a function that returns the "
    "relevance to pass on"
)


def restricted(factor: Tensor, kept: Tensor | Callable[[Tensor], Tensor]) -> Tensor:
    """Return the relevance that a condition keeps, or its coefficient.

    Args:
        factor: The relevance of the value, or its coefficient.
        kept: A mask, or a function of the relevance, as :func:`mask_of` returns it.

    Raises:
        InputError: The function does not return a tensor of the shape of the relevance.
    """
    if isinstance(kept, Tensor):
        return torch.where(kept, factor, 0.0)
    # A function receives a copy: other values may share the memory, and are returned or read again.
    passed = kept(factor.clone())
    if not isinstance(passed, Tensor) or passed.shape != factor.shape:
        raise InputError(f"the function of a condition must return a tensor of the shape {tuple(factor.shape)}")
    return passed


def mask_of(value: Tensor, condition: Any, name: str, dim: int | None) -> Any:
    """Return a mask that broadcasts to ``value``, True where relevance is kept; a function is returned as it is.

    Args:
        value: The value with the condition.
        condition: The condition.
        name: The name of the value, for messages.
        dim: The dimension of the channels of the value. None means dimension 1 of a value with two.

    Raises:
        InputError: The condition is of a wrong type, or does not fit the value.
    """
    if condition is None:
        raise InputError(f"the program has a condition on {name!r}: pass {_ACCEPTED}")
    if callable(condition) and not isinstance(condition, Tensor):
        return condition
    dim = usual_channel_dim(value) if dim is None else dim
    if isinstance(condition, Tensor) and condition.dtype == torch.bool:
        return _fitting(value, condition, name, dim)
    if dim is None or not -value.dim() <= dim < value.dim():
        raise InputError(
            f"only={{{name!r}: ...}}: the dimension of the channels of a value of shape {tuple(value.shape)} is not "
            "known: pass a boolean mask that broadcasts to it"
        )
    return _of_channels(value, condition, name, dim)


def usual_channel_dim(value: Tensor) -> int | None:
    """Return the dimension of the channels where the graph does not show it: the only one behind the batch, if any."""
    return 1 if value.dim() == 2 else None


def _fitting(value: Tensor, mask: Tensor, name: str, dim: int | None) -> Tensor:
    """A boolean mask that broadcasts to the value; one with one dimension has an element for each channel."""
    if dim is not None and mask.dim() == 1 and mask.shape[0] == value.shape[dim]:
        return mask.reshape(_along(value, dim))
    sizes = zip(reversed(mask.shape), reversed(value.shape), strict=False)
    if mask.dim() > value.dim() or any(own not in (1, size) for own, size in sizes):
        raise InputError(
            f"only={{{name!r}: ...}}: a mask of shape {tuple(mask.shape)} does not broadcast to the value of shape "
            f"{tuple(value.shape)}"
        )
    return mask


def _of_channels(value: Tensor, channels: Any, name: str, dim: int) -> Tensor:
    size = value.shape[dim]
    try:
        # An empty list has no integers from which the type could be seen.
        dtype = torch.long if isinstance(channels, list | tuple) and not channels else None
        indices = torch.as_tensor(channels, dtype=dtype, device=value.device).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"only={{{name!r}: ...}}: a condition must be {_ACCEPTED}, not {shown(channels)}") from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise InputError(f"only={{{name!r}: ...}}: a condition must be {_ACCEPTED}, not {shown(channels)}")
    indices = indices.long()
    chosen = torch.zeros(size, dtype=torch.bool, device=value.device)
    if indices.numel():
        if not is_compiling() and not bool(((indices >= -size) & (indices < size)).all()):
            raise InputError(f"only={{{name!r}: {shown(channels)}}}: the value has {size} channels")
        chosen = chosen.index_fill(0, torch.where(indices < 0, indices + size, indices), True)
    return chosen.reshape(_along(value, dim))


def _along(value: Tensor, dim: int) -> list[int]:
    """The shape of a vector that broadcasts along a dimension of a value."""
    return [-1 if each == dim % value.dim() else 1 for each in range(value.dim())]

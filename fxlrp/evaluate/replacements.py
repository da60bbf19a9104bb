"""What replaces the flipped regions of an input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from fxlrp.arguments import shown
from fxlrp.errors import InputError
from fxlrp.integers import is_integer

Replacement: TypeAlias = "str | float | Tensor | Callable[[Tensor], Tensor]"

_WIDEST = 100
# An expanded tensor may have more elements than any memory.
_MOST = 2**40

_NAMES = ("mean", "zero", "blur")


def replacement_of(replace: Replacement, x: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the values that replace those of ``x``, of the same shape.

    Args:
        replace: As for :func:`fxlrp.evaluate.pixel_flipping`.
        x: The input.
        dims: The dimensions that are positions.

    Raises:
        InputError: The replacement does not exist or does not fit.
    """
    if isinstance(replace, str):
        return _named(replace, x, dims)
    if isinstance(replace, Tensor):
        found = replace.to(x.device)
    elif isinstance(replace, int | float) and not isinstance(replace, bool):
        found = torch.tensor(replace, device=x.device)
    elif callable(replace):
        found = replace(x.clone())
        if not isinstance(found, Tensor):
            raise InputError(f"the function replace must return a tensor, not a {type(found).__name__}")
    else:
        raise InputError(f"replace must be a name, a number, a tensor or a function, not {shown(replace)}")
    if found.is_floating_point() and not x.is_floating_point():
        raise InputError(f"the input is {x.dtype}: replace must be a token, an integer, not {found.dtype}")
    try:
        return found.to(x.dtype).expand_as(x)
    except RuntimeError as error:
        raise InputError(
            f"a replacement of shape {tuple(found.shape)} does not fit an input of shape {tuple(x.shape)}"
        ) from error


def _named(name: str, x: Tensor, dims: Sequence[int]) -> Tensor:
    if name not in _NAMES:
        raise InputError(
            f"replace must be {', '.join(map(repr, _NAMES))}, a number, a tensor or a function, not {name!r}"
        )
    if not x.is_floating_point():
        raise InputError(
            f"the input is {x.dtype}, and {name!r} replaces real numbers: give the id of the token that replaces "
            "others, such as tokenizer.mask_token_id"
        )
    if name == "mean":
        return x.mean(tuple(dims), keepdim=True).expand_as(x)
    if name == "zero":
        return torch.zeros_like(x)
    return _blurred(x, dims, None)


def blur(sigma: float, dims: Sequence[int] = (-2, -1)) -> Callable[[Tensor], Tensor]:
    """Replace values by those of a Gaussian blur.

    Args:
        sigma: The standard deviation of the Gaussian, in positions.
        dims: The dimensions along which it blurs, those of images by default.

    Returns:
        A function for ``replace=`` of :func:`pixel_flipping`.

    Raises:
        InputError: ``sigma`` is not a positive number. The function raises it for dimensions that its argument does not
            have, and for integers.

    Example:
        >>> import torch, fxlrp
        >>> fxlrp.evaluate.blur(2.0)(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 < sigma < math.inf:
        raise InputError(f"sigma must be a positive number, not {shown(sigma)}")
    if not isinstance(dims, list | tuple) or not all(map(is_integer, dims)):
        raise InputError(f"dims must be a list of dimensions, not {shown(dims)}")

    def blurred(x: Tensor) -> Tensor:
        if (
            not isinstance(x, Tensor)
            or x.layout != torch.strided
            or x.is_nested
            or x.is_meta
            or not 0 < x.numel() < _MOST
        ):
            raise InputError(f"blur takes a dense tensor with elements that fit into memory, not {shown(x)}")
        if not x.is_floating_point() or any(not -x.dim() <= dim < x.dim() for dim in dims):
            raise InputError(f"blur along dims={tuple(dims)} needs real numbers, not {x.dtype} of {tuple(x.shape)}")
        return _blurred(x, dims, sigma)

    return blurred


def _blurred(x: Tensor, dims: Sequence[int], sigma: float | None) -> Tensor:
    """Blur along each dimension; without a ``sigma`` by an eighth of its size."""
    for dim in dims:
        width = x.shape[dim] / 8 if sigma is None else sigma
        # Beyond the border the nearest value repeats, so a wider Gaussian than this changes no more.
        width = min(width, _WIDEST * x.shape[dim])
        radius = math.ceil(3 * width)
        steps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-((steps / width) ** 2) / 2)
        lines = x.movedim(dim, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        x = F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1)).reshape(lines.shape).movedim(-1, dim)
    return x

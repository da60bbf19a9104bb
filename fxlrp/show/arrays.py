"""Relevance and images as they come, checked and in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxlrp.arguments import as_tensor, shown
from fxlrp.errors import InputError
from fxlrp.extras import require
from fxlrp.pictures import rgb

if TYPE_CHECKING:
    from PIL.Image import Image

EXTRA = "show"


def numbers_of(values: Any, what: str) -> Tensor:
    """Return real, finite numbers on the CPU in double precision, without a derivative.

    Args:
        values: A tensor, an array, or nested lists of numbers.
        what: What they are, for errors.

    Raises:
        InputError: They are not real or not finite, or there are none.
    """
    tensor = _tensor_of(values, what)
    shape = tuple(tensor.shape)
    is_relevance = what == "relevance"
    if tensor.is_meta:
        raise InputError(f"{what} of shape {shape} is on the meta device and has no values")
    if tensor.is_complex():
        hint = "torch.view_as_real(relevance).sum(-1)" if is_relevance else "its real part or its absolute value"
        raise InputError(f"{what} of shape {shape} is complex: pass {hint}")
    if not tensor.numel():
        raise InputError(f"{what} of shape {shape} is empty")
    tensor = tensor.detach().cpu()
    tensor = (tensor.to_dense() if tensor.layout != torch.strided else tensor).double()
    nans, infinities = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    if nans or infinities:
        hint = "; explain.debug(...).first_bad says where they come from" if is_relevance else ""
        raise InputError(f"{what} of shape {shape} has {nans} NaN and {infinities} infinite elements{hint}")
    return tensor


def _tensor_of(values: Any, what: str) -> Tensor:
    """Return values as a tensor of their own type."""
    if isinstance(values, Mapping):
        names = ", ".join(repr(name) for name in values)
        raise InputError(f"{what} is a dict: pass the entry of one input, of {names}")
    if isinstance(values, tuple) and any(isinstance(each, Tensor) and each.dim() for each in values):
        raise InputError(f"{what} is a tuple of {len(values)} tensors: pass one of them")
    if isinstance(values, Tensor):
        return values
    return as_tensor(what, values)


def pixels_of(relevance: Any) -> Tensor:
    """Return the relevance of every pixel, of shape (H, W).

    Args:
        relevance: Of shape (C, H, W), (1, C, H, W) or (H, W). Channels are summed.

    Raises:
        InputError: It has another shape, or is not finite.
    """
    tensor = numbers_of(relevance, "relevance")
    shape = tuple(tensor.shape)
    if tensor.dim() == 4 and shape[0] != 1:
        raise InputError(
            f"relevance of shape {shape} has {shape[0]} samples: pass one of them, relevance[0], or one heatmap for "
            "each to show.grid, [show.heatmap(each) for each in relevance]"
        )
    if tensor.dim() not in (2, 3, 4):
        raise InputError(f"relevance of shape {shape} is not (C, H, W), (1, C, H, W) or (H, W)")
    return tensor.reshape(-1, *shape[-2:]).sum(0)


def image_of(image: Any) -> Image:
    """Return an image of pillow in RGB.

    Args:
        image: An image of pillow; a tensor of shape (C, H, W), (1, C, H, W) or (H, W) with one or three channels; or an
            array of shape (H, W, C) or (H, W). Its numbers are bytes (uint8), or floating-point numbers from 0 to 1.

    Raises:
        InputError: It has another shape or other numbers.
    """
    images = require("PIL.Image", EXTRA)
    if isinstance(image, images.Image):
        found: Image = rgb(image)
        return found
    given = _tensor_of(image, "image")
    tensor, dtype = numbers_of(given, "image"), given.dtype
    shape = tuple(tensor.shape)
    if tensor.dim() == 4 and shape[0] != 1:
        raise InputError(f"image of shape {shape} is a batch of {shape[0]}: pass one of them, image[0]")
    forms = "(C, H, W), (1, C, H, W) or (H, W)" if isinstance(image, Tensor) else "(H, W, C) or (H, W)"
    if tensor.dim() not in ((2, 3, 4) if isinstance(image, Tensor) else (2, 3)):
        raise InputError(f"image of shape {shape} is not {forms}")
    planes = tensor.reshape(-1, *shape[-2:])
    if not isinstance(image, Tensor) and tensor.dim() == 3:
        planes = tensor.permute(2, 0, 1)  # arrays have their channels last
    if len(planes) not in (1, 3):
        raise InputError(f"image of shape {shape} has {len(planes)} channels, not 1 or 3, if it is {forms}")
    return from_bytes(_bytes_of(planes, dtype).expand(3, -1, -1).permute(1, 2, 0))


def _bytes_of(planes: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.uint8:
        return planes.to(torch.uint8)
    least, most = float(planes.min()), float(planes.max())
    # Resampling exceeds the range by rounding.
    if dtype.is_floating_point and least >= -1e-3 and most <= 1 + 1e-3:
        return (planes.clamp(0, 1) * 255).round().to(torch.uint8)
    raise InputError(
        f"image has values of {dtype} from {least:.4g} to {most:.4g}, not bytes (uint8) and not floating-point numbers "
        "from 0 to 1: undo its normalization (image * std + mean); relevance is drawn by show.heatmap(relevance)"
    )


def from_bytes(pixels: Tensor) -> Image:
    """Return an image of pillow of bytes of shape (H, W, 3) or (H, W, 4)."""
    height, width, count = pixels.shape
    mode = {3: "RGB", 4: "RGBA"}[count]
    found: Image = require("PIL.Image", EXTRA).frombytes(mode, (width, height), pixels.contiguous().numpy().tobytes())
    return found


def names_of(names: Any, what: str) -> tuple[str, ...]:
    """Return a sequence or an array of strings.

    Raises:
        InputError: It is not one.
    """
    # Numbers are not made a list first: an expanded tensor can have more of them than there is memory for.
    is_array = hasattr(names, "tolist") and getattr(getattr(names, "dtype", None), "kind", "") in ("U", "O")
    listed = names.tolist() if is_array else names
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise InputError(f"{what}={shown(names)} is not a sequence of strings")
    wrong = [each for each in listed if not isinstance(each, str)]
    if wrong:
        raise InputError(f"{what} contains {wrong[0]!r}, which is not a string")
    return tuple(listed)

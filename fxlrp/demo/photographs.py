"""Photographs that packages carry, and those of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import InputError
from fxlrp.extras import require
from fxlrp.pictures import opened, rgb

__all__ = ["PHOTOGRAPHS", "Photograph", "photograph"]


@dataclass(frozen=True)
class Photograph:
    """A photograph, and what to ask about it.

    Args:
        read: Returns the middle of the photograph as an image ``(1, 3, side, side)`` with values in [0, 1].
        classes: The names of the two classes to explain. None means the two likeliest ones.
    """

    read: Callable[[int], Tensor]
    classes: tuple[str, str] | None = None


def photograph(name: str) -> Photograph:
    """Find a photograph.

    Args:
        name: A key of :data:`PHOTOGRAPHS`, or the path of a file.

    Returns:
        The photograph. It raises an InputError when it reads a file that is not an image.
    """
    return PHOTOGRAPHS.get(name) or Photograph(lambda side: _of_user(Path(name), side))


def middle(picture: Any, side: int) -> Tensor:
    """Cut out the middle of an image of pillow: seven eighths of its shorter side, as is usual for ImageNet."""
    crop = min(picture.size) * 7 / 8
    left, top = ((size - crop) / 2 for size in picture.size)
    bicubic = require("PIL.Image", "demo").Resampling.BICUBIC
    small = rgb(picture).resize((side, side), bicubic, box=(left, top, left + crop, top + crop))
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(side, side, 3)
    return pixels.permute(2, 0, 1).unsqueeze(0) / 255


def _of_user(path: Path, side: int) -> Tensor:
    try:
        return middle(opened(path), side)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _scikit_image(name: str, side: int) -> Tensor:
    array = getattr(require("skimage.data", "demo"), name)()
    return middle(require("PIL.Image", "demo").fromarray(array), side)


def _scikit_learn(name: str, side: int) -> Tensor:
    array = require("sklearn.datasets", "demo").load_sample_image(name)
    return middle(require("PIL.Image", "demo").fromarray(array), side)


def _beside(left: Photograph, right: Photograph, side: int) -> Tensor:
    """The middle halves of two photographs."""
    quarter = side // 4
    halves = [each.read(side)[..., quarter : quarter + side // 2] for each in (left, right)]
    return torch.cat(halves, -1)


_CAT = Photograph(lambda side: _scikit_image("chelsea", side))
_COFFEE = Photograph(lambda side: _scikit_image("coffee", side))

PHOTOGRAPHS: dict[str, Photograph] = {
    "cat": _CAT,
    "coffee": _COFFEE,
    "cat-and-coffee": Photograph(lambda side: _beside(_CAT, _COFFEE, side), ("Egyptian cat", "espresso")),
    "rocket": Photograph(lambda side: _scikit_image("rocket", side), ("missile", "drilling platform")),
    "palace": Photograph(lambda side: _scikit_learn("china.jpg", side)),
    "flower": Photograph(lambda side: _scikit_learn("flower.jpg", side)),
}
"""The photographs of scikit-image and scikit-learn by their names."""

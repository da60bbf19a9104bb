"""Images of pillow: read from files, and in RGB."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fxlrp.errors import InputError
from fxlrp.extras import require

_EXTRA = "vision"


def opened(path: Path) -> Any:
    """The image in a file, turned as its metadata says.

    Raises:
        InputError: It cannot be read. The message does not name the file, which callers do.
    """
    images, operations = require("PIL.Image", _EXTRA), require("PIL.ImageOps", _EXTRA)
    try:
        with images.open(path) as image:
            image.load()
            return operations.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, images.DecompressionBombError) as error:
        raise InputError(f"it is not an image that pillow can read: {error}") from error


def rgb(image: Any) -> Any:
    """An image of pillow in RGB with 8 bits; gray values of 16 bits are scaled, which pillow would clip.

    Raises:
        InputError: The image does not say which value is white.
    """
    if image.mode in ("I", "F"):
        raise InputError(
            f"the image has pixels of mode {image.mode}, which do not say which value is white: save it with 8 bits"
        )
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (255 / 65535) + 0.5)
    return image.convert("RGB")

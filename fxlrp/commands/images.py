"""Images: which files are images, and how they become inputs where the model does not say it."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp.commands.subject import Normalization
from fxlrp.errors import InputError
from fxlrp.extras import require
from fxlrp.pictures import rgb

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_RESIZED, _SIDE = 256, 224
DEFAULT_IMAGES = f"resized to {_RESIZED} pixels, cropped to {_SIDE}, normalized as ImageNet is"
_SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .pbm .pgm .png .ppm .tif .tiff .webp".split())


def is_image_name(name: str) -> bool:
    """Whether the name of a file ends as those of images do."""
    return Path(name).suffix.lower() in _SUFFIXES


def existing(name: str) -> Path | None:
    """The file or folder with this name; None if there is none, as for a text."""
    path = Path(name)
    try:
        return path if path.exists() else None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # a long text
            return None
        raise


def files_of(given: Sequence[str], written_to: Path) -> list[Path]:
    """The files that are given, with the images inside of folders in place of them.

    Args:
        given: The names of files and folders.
        written_to: The folder of the pictures, which are not images to explain if it is inside of a given folder.

    Raises:
        InputError: There is no such file, no image in a folder, or the pictures would be among the images.
    """
    found: list[Path] = []
    own = written_to.resolve()
    for name in given:
        path = Path(name)
        if path.is_dir():
            if path.resolve() == own:
                raise InputError(f"--out {written_to} is the folder of the images: give another one for the pictures")
            images = sorted(each for each in path.rglob("*") if each.is_file() and is_image_name(each.name))
            inside = [each for each in images if own not in each.resolve().parents]
            if len(inside) < len(images):
                print(f"{len(images) - len(inside)} images in {written_to} are left out, because it is --out")
            if not inside:
                raise InputError(f"the folder {name} has no images: {', '.join(sorted(_SUFFIXES))}")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"there is no file or folder {name!r}")
    return list(dict.fromkeys(found))


def default_image(image: Any) -> Tensor:
    """The input of a model that does not say how its images are made."""
    images = require("PIL.Image", "vision")
    image = rgb(image)
    width, height = (int(_RESIZED * side / min(image.size)) for side in image.size)
    image = image.resize((width, height), images.Resampling.BILINEAR)
    left, top = (width - _SIDE) // 2, (height - _SIDE) // 2
    image = image.crop((left, top, left + _SIDE, top + _SIDE))
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(_SIDE, _SIDE, 3)
    mean, std = (torch.tensor(each) for each in (IMAGENET.mean, IMAGENET.std))
    return ((pixels / 255 - mean) / std).permute(2, 0, 1).contiguous()


def shown(image: Tensor, normalization: Normalization | None) -> Tensor | None:
    """The input of a model as a picture in [0, 1]; None if it has other than one or three channels."""
    image = image.detach().float().cpu()
    if normalization is not None and len(normalization.mean) == image.shape[0]:
        image = normalization.undo(image)
    else:
        least, most = image.aminmax()
        image = (image - least) / (most - least).clamp_min(1e-12)
    return image if image.shape[0] in (1, 3) else None

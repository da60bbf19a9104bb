"""A folder of images as a dataset."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from fxlrp.arguments import path_of, shown, whole
from fxlrp.commands.images import is_image_name
from fxlrp.errors import InputError
from fxlrp.pictures import opened


class Images(Dataset[Tensor]):
    """The images in a folder and in the folders below it, in the order of their names."""

    def __init__(self, folder: str | os.PathLike[str], prepare: Callable[[Any], Tensor]) -> None:
        """Find the images.

        Args:
            folder: The folder.
            prepare: Makes the input of an image of pillow, such as the transforms of the weights of torchvision.

        Raises:
            InputError: The folder does not exist or has no images.

        Example:
            >>> import tempfile, fxlrp
            >>> fxlrp.data.Images(tempfile.mkdtemp(), prepare=None)
            Traceback (most recent call last):
            ...
            fxlrp.errors.InputError: prepare must be a function from an image of pillow to a tensor, not None
        """
        if not callable(prepare):
            raise InputError(f"prepare must be a function from an image of pillow to a tensor, not {shown(prepare)}")
        root = path_of(folder)
        if not root.is_dir():
            raise InputError(f"there is no folder {str(root)!r}")
        found = sorted(each for each in root.rglob("*") if each.is_file() and is_image_name(each.name))
        if not found:
            raise InputError(f"the folder {str(root)!r} has no images")
        self._root, self._prepare = root, prepare
        self._names = tuple(each.relative_to(root).as_posix() for each in found)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files, below the folder; they are kept in the store."""
        return self._names

    def __len__(self) -> int:
        """The number of images."""
        return len(self._names)

    def __getitem__(self, index: int) -> Tensor:
        """Return the input that an image becomes.

        Raises:
            InputError: The image cannot be read, or does not become a tensor.
        """
        path = self.path(index)
        try:
            made = self._prepare(opened(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        if not isinstance(made, Tensor):
            raise InputError(f"{path}: prepare must return a tensor, not {shown(made)}")
        return made

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self._root / self._names[whole("index", index, 0)]

"""Pictures of the curves of pixel flipping."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from fxlrp.errors import InputError
from fxlrp.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class CurvePicture:
    """A picture of curves. Notebooks show it.

    Args:
        png: The bytes of a PNG file.
    """

    png: bytes

    @property
    def image(self) -> Image:
        """The picture as an image of pillow."""
        found: Image = require("PIL.Image", "show").open(BytesIO(self.png))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG.

        Args:
            path: The file to write, which ends in ``.png``.

        Raises:
            InputError: The path does not end in ``.png``.
        """
        if Path(path).suffix.lower() != ".png":
            raise InputError(f"path={str(path)!r} does not end in .png; for other formats: picture.image.save(path)")
        Path(path).write_bytes(self.png)

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        """The class, because the bytes are of no use to a reader."""
        return f"{type(self).__name__}({len(self.png)} bytes)"


def draw(curves: Mapping[str, Sequence[Sequence[float]]]) -> CurvePicture:
    """Draw curves of MoRF as lines, and of LeRF as dashed lines.

    Args:
        curves: The fractions, and the scores of MoRF and LeRF, by the name of the explanation.
    """
    # A figure without pyplot keeps no state and needs no display.
    figure = require("matplotlib.figure", "show").Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, (fractions, morf, lerf)) in enumerate(curves.items()):
        axes.plot(fractions, morf, color=f"C{index % 10}", label=name)
        axes.plot(fractions, lerf, color=f"C{index % 10}", linestyle="--")
    axes.set_xlabel("fraction of flipped regions (line: most relevant first, dashed: least relevant first)", fontsize=8)
    axes.set_ylabel("score")
    figure.legend(loc="outside right upper")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return CurvePicture(file.getvalue())

"""A picture: an image with its scale and caption."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxlrp.arguments import path_of
from fxlrp.extras import require
from fxlrp.show.arrays import EXTRA, from_bytes
from fxlrp.show.colors import EDGE, FAINT, INK, PAPER
from fxlrp.show.scale import minus, signed

if TYPE_CHECKING:
    from PIL.Image import Image

# In pixels. A picture with its caption is at least this wide, and an image in it at least this large.
LEAST_WIDTH = 320
LEAST_SIDE = 384
MARGIN = 12
BAR = 12
# The font that matplotlib brings.
FONT = "DejaVu Sans"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of relevance. Notebooks show it.

    Args:
        image: The image of pillow, without a caption.
        scale: The absolute relevance that has the full color; None if it is not the same everywhere.
        caption: The scale and how it was chosen, in words.
    """

    image: Image
    scale: float | None
    caption: str

    def captioned(self) -> Image:
        """The image as it is saved and shown."""
        return self.image

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG. The caption is also its description in the metadata.

        Args:
            path: The file to write, which ends in ``.png``. Other formats: ``picture.image.save(path)``.

        Raises:
            InputError: The path does not end in ``.png``.
        """
        file = path_of(path, ".png", "; for other formats: picture.image.save(path)")
        file.write_bytes(self._repr_png_())

    def _repr_png_(self) -> bytes:
        info = require("PIL.PngImagePlugin", EXTRA).PngInfo()
        info.add_itxt("Description", self.caption)
        file = BytesIO()
        self.captioned().save(file, "PNG", pnginfo=info)
        return file.getvalue()

    def __repr__(self) -> str:
        """The size and the caption."""
        return f"{type(self).__name__}({self.image.width}x{self.image.height}, {self.caption})"


def with_bar(image: Image, scale: float, caption: str, colors: Callable[[Tensor], Tensor]) -> Image:
    """Return an image with a bar of the colors and the caption below it.

    Small images are enlarged by a whole number, so that each pixel remains a square.

    Args:
        image: The image.
        scale: The absolute relevance that has the full color; zero if there is none, and no bar.
        caption: The caption.
        colors: The colors of shares of the scale.
    """
    images, draws = require("PIL.Image", EXTRA), require("PIL.ImageDraw", EXTRA)
    times = max(1, -(-LEAST_SIDE // max(image.size)))
    shown = image.resize((image.width * times, image.height * times), images.Resampling.NEAREST)
    width = max(shown.width, LEAST_WIDTH)
    text = font(13)
    lines = wrapped(minus(caption), text.getlength, width)
    line = 18
    height = shown.height + MARGIN + (BAR + 20 if scale else 0) + line * len(lines)
    page: Image = images.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    draw = draws.Draw(page)
    left = MARGIN + (width - shown.width) // 2
    page.paste(shown, (left, MARGIN))
    # Where relevance is zero the image is white, so it has an edge.
    draw.rectangle((left - 1, MARGIN - 1, left + shown.width, MARGIN + shown.height), outline=EDGE)
    top = MARGIN + shown.height + MARGIN
    if scale:
        bar = width
        shares = torch.linspace(-1, 1, bar, dtype=torch.float64)
        page.paste(from_bytes(colors(shares).expand(BAR, bar, 3)), (MARGIN, top))
        draw.rectangle((MARGIN - 1, top - 1, MARGIN + bar, top + BAR), outline=EDGE)
        top += BAR + 3
        for share, anchor in ((-1, "lt"), (0, "mt"), (1, "rt")):
            label = signed(share * scale)
            draw.text((MARGIN + (share + 1) / 2 * bar, top + 2), minus(label), INK, text, anchor)
        top += 17
    for each in lines:
        draw.text((MARGIN, top + 3), each, FAINT, text, "lt")
        top += line
    return page


@cache
def font(size: int) -> Any:
    """The font of captions: that of matplotlib, because that of pillow has no minus sign."""
    data = Path(require("matplotlib", EXTRA).get_data_path())
    return require("PIL.ImageFont", EXTRA).truetype(str(data / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def wrapped(caption: str, measure: Callable[[str], float], width: float) -> list[str]:
    """The caption in lines that are at most ``width`` wide. Words that are wider are divided."""
    lines: list[str] = []
    for paragraph in caption.splitlines():
        lines.append("")
        for word in paragraph.split():
            longer = f"{lines[-1]} {word}".strip()
            if measure(longer) <= width:
                lines[-1] = longer
                continue
            if lines[-1]:
                lines.append("")
            for each in word:
                if lines[-1] and measure(lines[-1] + each) > width:
                    lines.append("")
                lines[-1] += each
    return lines

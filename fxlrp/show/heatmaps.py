"""The relevance of an image, alone and over the image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fxlrp.errors import InputError
from fxlrp.extras import require
from fxlrp.show.arrays import EXTRA, from_bytes, image_of, pixels_of
from fxlrp.show.colors import colors_of, on_paper
from fxlrp.show.picture import Picture, with_bar
from fxlrp.show.scale import QUANTILE, Scale, real, scale_of, signed

if TYPE_CHECKING:
    from PIL.Image import Image

# Of the two full colors on an image: those of the scale are too dark to be told apart there.
SHARE_OF_OVERLAYS = 0.75
# What becomes of black in an overlay.
BLACK = 96
# By how much the ratio of the sides of an image and of its relevance may differ.
SAME_RATIO = 0.02


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap(Picture):
    """The relevance of an image as colors, alone or over the image. :func:`heatmap` and :func:`overlay` return it.

    Args:
        image: The image of pillow, one pixel for each position, without a caption.
        scale: The absolute relevance that has the full color.
        caption: The scale and how it was chosen, in words.
        relevance: The relevance of every position, of shape (H, W).
        under: The image below the colors; None if there is none.
        alpha: The opacity of the full color.
        how: How the scale was chosen, in words.
    """

    relevance: Tensor = field(kw_only=True)
    under: Image | None = field(default=None, kw_only=True)
    alpha: float = field(default=1.0, kw_only=True)
    how: str = field(kw_only=True)

    def captioned(self) -> Image:
        """The image with a bar of its colors and its caption."""
        return with_bar(self.image, self.scale or 0.0, self.caption, self.colors)

    def colors(self, share: Tensor) -> Tensor:
        """The colors of shares of the scale, on white."""
        if self.under is None:
            return colors_of(share)
        colors, opacity = _overlaid(share, self.alpha)
        return on_paper(colors, opacity)

    def at(self, scale: Scale) -> Heatmap:
        """The same relevance on another scale."""
        return _heatmap(self.relevance, scale, self.under, self.alpha)


def heatmap(relevance: Any, *, quantile: float = QUANTILE, scale: float | None = None) -> Heatmap:
    """Draw the relevance of every pixel: red is positive, blue negative, white zero.

    Args:
        relevance: The relevance of an image, of shape (C, H, W), (1, C, H, W) or (H, W). Channels are summed.
        quantile: The quantile of the absolute relevance of this picture that gets the full color; what is larger is
            clipped to it.
        scale: The absolute relevance that gets the full color, in place of the quantile. With the same scale, pictures
            can be compared.

    Returns:
        The picture. Its ``image`` has one pixel for each position; ``save`` adds the scale.

    Raises:
        InputError: The relevance has another shape or is not finite.

    Example:
        >>> import torch
        >>> from fxlrp import show
        >>> show.heatmap(torch.tensor([[1.0, 0.0], [-2.0, 0.5]]), scale=2)
        Heatmap(2x2, full color at ±2 (given), sum -0.5)
    """
    pixels = pixels_of(relevance)
    return _heatmap(pixels, scale_of(pixels, quantile, scale))


def overlay(
    image: Any,
    relevance: Any,
    *,
    alpha: float = 0.85,
    quantile: float = QUANTILE,
    scale: float | None = None,
    gray: bool = True,
) -> Heatmap:
    """Draw the relevance of every pixel over the image: zero is transparent, the full color has the opacity ``alpha``.

    Args:
        image: The image: of pillow, a tensor of shape (C, H, W), (1, C, H, W) or (H, W), or an array of shape (H, W, C)
            or (H, W). Its numbers are bytes, or floating-point numbers from 0 to 1.
        relevance: As for :func:`heatmap`. If it has fewer positions than the image has pixels, each is enlarged.
        alpha: The opacity of the full color, above 0 and at most 1.
        quantile: As for :func:`heatmap`.
        scale: As for :func:`heatmap`.
        gray: Whether the image is shown in light gray, so that every color is relevance.

    Returns:
        The picture.

    Raises:
        InputError: The image or the relevance has another shape or other numbers, or their sides have another ratio.

    Example:
        >>> import torch
        >>> from fxlrp import show
        >>> show.overlay(torch.rand(3, 8, 8), torch.ones(3, 8, 8), scale=3)
        Heatmap(8x8, full color at ±3 (given), sum 192)
    """
    alpha = real("alpha", alpha, "a number above 0 and at most 1", lambda value: 0 < value <= 1)
    pixels = pixels_of(relevance)
    under = image_of(image)
    height, width = pixels.shape
    ratio = width / height * under.height / under.width
    if max(ratio, 1 / ratio) > 1 + SAME_RATIO:
        raise InputError(
            f"the image has {under.height} x {under.width} pixels and the relevance {height} x {width} positions: pass "
            "the part of the image that the model received"
        )
    if height > under.height or width > under.width:
        raise InputError(
            f"the relevance has {height} x {width} positions, more than the {under.height} x {under.width} pixels of "
            "the image: enlarge the image"
        )
    shown = _light_gray(under) if gray else under
    return _heatmap(pixels, scale_of(pixels, quantile, scale), shown, alpha)


def _heatmap(pixels: Tensor, scale: Scale, under: Image | None = None, alpha: float = 1.0) -> Heatmap:
    total = float(pixels.sum())
    image = from_bytes(colors_of(scale.share(pixels))) if under is None else _over(under, scale.share(pixels), alpha)
    caption = f"{scale}, sum {signed(total).lstrip('+')}"
    return Heatmap(image, scale.value, caption, relevance=pixels, under=under, alpha=alpha, how=scale.how)


def _over(under: Image, share: Tensor, alpha: float) -> Image:
    """Blend the two full colors with an image, in proportion to the relevance."""
    images = require("PIL.Image", EXTRA)
    colors, opacity = _overlaid(share, alpha)
    layer = from_bytes(torch.cat((colors, (opacity * 255).round().to(torch.uint8)), -1))
    layer = layer.resize(under.size, images.Resampling.NEAREST)
    found: Image = images.composite(layer.convert("RGB"), under, layer.getchannel("A"))
    return found


def _overlaid(share: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """The color of each share of the scale in an overlay, and its opacity."""
    return colors_of(share.sign() * SHARE_OF_OVERLAYS), (share.abs() * alpha).unsqueeze(-1)


def _light_gray(image: Image) -> Image:
    """The image in gray from BLACK to white: relevance is seen on dark parts, too."""
    gray = image.convert("L").point(lambda value: BLACK + value * (255 - BLACK) / 255)
    return gray.convert("RGB")

"""Colors of relevance: red is positive, blue negative, white zero.

Both sides get darker at the same rate: the lightness (L* of CIELAB) of their quarters is 84, 67, 50 and 35. Red and
blue differ for every common color vision deficiency.
"""

from __future__ import annotations

import torch
from torch import Tensor

INK = "#22252b"
FAINT = "#6b7178"
PAPER = "#ffffff"
EDGE = "#b4b9bf"
# From the full color of negative relevance to that of positive relevance, in equal steps.
ANCHORS = (
    *("#08519c", "#2e7ebc", "#67aad5", "#bcd5ea"),
    PAPER,
    *("#fcc5b0", "#fa7d5d", "#de3728", "#a50f15"),
)


def channels(color: str) -> tuple[int, int, int]:
    """The red, green and blue of ``#rrggbb``."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def colors_of(share: Tensor) -> Tensor:
    """Return the colors of relevance.

    Args:
        share: Relevance as a share of the scale; what is outside [-1, 1] gets the full color.

    Returns:
        Bytes of red, green and blue, in a last dimension of size 3.
    """
    anchors = torch.tensor([channels(color) for color in ANCHORS], dtype=torch.float64)
    steps = (share.double().clamp(-1, 1) + 1) * ((len(ANCHORS) - 1) / 2)
    below = steps.floor().long().clamp(max=len(ANCHORS) - 2)
    between = (steps - below).unsqueeze(-1)
    return torch.lerp(anchors[below], anchors[below + 1], between).round().to(torch.uint8)


def on_paper(colors: Tensor, opacity: Tensor | float) -> Tensor:
    """Return bytes of colors that are blended with white.

    Args:
        colors: Bytes of red, green and blue.
        opacity: 1 leaves the color, 0 is white. It broadcasts to the colors.
    """
    return (255 + (colors.double() - 255) * opacity).round().to(torch.uint8)


def color_of(share: float) -> str:
    """The color of one number, as ``#rrggbb``."""
    red, green, blue = colors_of(torch.tensor(share, dtype=torch.float64)).tolist()
    return f"#{red:02x}{green:02x}{blue:02x}"


def luminance(color: str) -> float:
    """The relative luminance of a color, as the Web Content Accessibility Guidelines define it."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (byte / 255 for byte in channels(color))
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def text_on(background: str) -> str:
    """Black or white, whichever has the higher contrast; it is at least 4.5:1."""
    behind = luminance(background)
    return "#000000" if (behind + 0.05) / 0.05 >= 1.05 / (behind + 0.05) else "#ffffff"

"""The colors of relevance."""

from __future__ import annotations

import torch

from fxlrp.show.colors import ANCHORS, color_of, colors_of, luminance, text_on
from fxlrp.show.scale import minus, number, signed


def test_red_is_positive_blue_negative_and_white_zero() -> None:
    assert colors_of(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [[8, 81, 156], [255, 255, 255], [165, 15, 21]]
    assert color_of(0.5) == "#fa7d5d" and color_of(-0.5) == "#67aad5"


def test_every_small_share_leans_to_its_side() -> None:
    red, _, blue = colors_of(torch.linspace(0.01, 1, 100)).long().unbind(-1)
    assert (red > blue).all()
    red, _, blue = colors_of(torch.linspace(-1, -0.01, 100)).long().unbind(-1)
    assert (blue > red).all()


def test_what_exceeds_the_scale_has_the_full_color() -> None:
    assert colors_of(torch.tensor([-7.0, 3.0])).tolist() == colors_of(torch.tensor([-1.0, 1.0])).tolist()


def lightness(color: str) -> float:
    """L* of CIELAB, from its definition."""
    luminous = luminance(color)
    return 116 * luminous ** (1 / 3) - 16 if luminous > 0.008856 else 903.3 * luminous


def test_both_sides_are_equally_light() -> None:
    assert luminance("#ffffff") == 1 and luminance("#000000") == 0
    light = [lightness(color) for color in ANCHORS]
    for left, right in zip(light, reversed(light), strict=True):
        assert abs(left - right) < 1.5
    assert light[:5] == sorted(light[:5])


def test_text_is_legible_on_every_color() -> None:
    for share in torch.linspace(-1, 1, 401).tolist():
        behind = color_of(share)
        one, other = sorted((luminance(behind), luminance(text_on(behind))))
        assert (other + 0.05) / (one + 0.05) >= 4.5


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.0, 2.2249e-7, 1234567.0, 0.5)] == ["0", "2.22e-7", "1.23e+6", "0.5"]
    assert [signed(value) for value in (0.0, -0.0, 2.0, -2e-10)] == ["0", "0", "+2", "-2e-10"]
    assert minus("-2e-10") == "−2e−10"

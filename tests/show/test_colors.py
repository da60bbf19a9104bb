"""The colors of relevance."""

from __future__ import annotations

import pytest
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


# Machado, Oliveira and Fernandes (2009), severity 1: linear red, green and blue as they are seen.
SEEN = {
    "normal": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def lab(share: torch.Tensor, seen: str) -> torch.Tensor:
    """The colors of shares in CIELAB, as they are seen."""
    srgb = colors_of(share).double() / 255
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = (linear @ torch.tensor(SEEN[seen], dtype=torch.float64).T).clamp(0, 1)
    xyz = linear @ torch.tensor(TO_XYZ, dtype=torch.float64).T / torch.tensor([0.95047, 1.0, 1.08883])
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


@pytest.mark.parametrize("seen", SEEN)
def test_signs_differ_for_every_color_vision(seen: str) -> None:
    share = torch.linspace(0.25, 1, 100)
    # A difference of 2.3 is just noticeable.
    assert (lab(share, seen) - lab(-share, seen)).norm(dim=-1).min() > 20
    # More relevance is darker, on both sides.
    for side in (share, -share):
        assert (lab(side, seen)[:, 0].diff() < 0).all()

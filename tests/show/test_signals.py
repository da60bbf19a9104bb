"""Signals on the colors of their relevance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from fxlrp import show
from fxlrp.errors import InputError
from fxlrp.show.signals import outline

# The full colors behind a curve: 0.6 of them, and 0.4 white.
RED, BLUE = (201, 111, 115), (107, 151, 196)
BAR_RED, BAR_BLUE = (222, 55, 40), (46, 126, 188)


def spans(picture: show.Picture, color: tuple[int, int, int]) -> list[tuple[int, int]]:
    """The columns that contain a color on more than 60 rows, as ranges; the bar of the scale has fewer."""
    found = (abs(numpy.asarray(picture.image).astype(int) - color).max(-1) <= 1).sum(0) > 60
    edges = numpy.diff(numpy.concatenate(([0], found.astype(int), [0])))
    return list(zip(edges.nonzero()[0][::2].tolist(), edges.nonzero()[0][1::2].tolist(), strict=True))


# The panel begins 0.75 inches from the left and is 7 inches wide.
LEFT, WIDTH, DPI = 0.75, 7.0, 160


def at(position: float, length: int) -> float:
    """The column of the picture where a value begins."""
    return DPI * (LEFT + WIDTH * position / length)


def test_each_value_is_on_the_color_of_its_relevance() -> None:
    relevance = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, -1.0, -1.0, 0.0])
    picture = show.signal(torch.zeros(8), relevance, scale=1)
    ((start, end),) = spans(picture, RED)
    assert start == pytest.approx(at(2, 8), abs=2) and end == pytest.approx(at(3, 8), abs=2)
    ((start, end),) = spans(picture, BLUE)
    assert start == pytest.approx(at(5, 8), abs=2) and end == pytest.approx(at(7, 8), abs=2)


def test_bars_show_the_relevance_and_its_sign() -> None:
    picture = show.signal(torch.zeros(4), torch.tensor([2.0, 0.0, -1.0, 0.0]))
    pixels = numpy.asarray(picture.image)
    red_rows = (pixels == BAR_RED).all(-1).any(1).nonzero()[0]
    blue_rows = (pixels == BAR_BLUE).all(-1).any(1).nonzero()[0]
    assert red_rows.max() < blue_rows.min()
    assert len(red_rows) == pytest.approx(2 * len(blue_rows), abs=4)


def test_long_signals_are_summed_in_parts_and_the_caption_says_so() -> None:
    relevance = torch.randn(2, 1003, generator=torch.Generator().manual_seed(0))
    picture = show.signal(torch.zeros(2, 1003), relevance, bins=100, rate=500, quantile=1)
    sums = [relevance[:, start : start + 11].double().sum(1).abs().max() for start in range(0, 1003, 11)]
    assert picture.scale == pytest.approx(float(max(sums)), rel=1e-6)
    total = f"{float(relevance.double().sum()):.3g}"
    assert picture.caption.endswith(f"(the largest), sum {total}; each bar sums 11 values (22 ms)")


@pytest.mark.parametrize("shape", [(50,), (1, 50), (1, 1, 50), (1, 3, 50)])
def test_every_shape(shape: tuple[int, ...]) -> None:
    relevance = torch.ones(shape, dtype=torch.bfloat16, requires_grad=True)
    picture = show.signal(torch.rand(shape), relevance)
    assert picture.scale == 1
    assert len(spans(picture, RED)) == 1


def test_long_curves_keep_their_extremes() -> None:
    curve = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0)).double()
    curve[123_456], curve[-1] = 50.0, -60.0
    positions, heights = outline(curve, 1000)
    assert len(positions) == len(heights) <= 2002
    assert heights.min() == -60 and heights.max() == 50
    assert abs(positions[heights.argmax()] - 123_456) <= 501 and positions[heights.argmin()] <= len(curve) - 1
    assert (positions.diff() >= 0).all()
    for start in (0, 500_500):  # a part has 1001 values
        ends = heights[2 * (start // 1001) : 2 * (start // 1001) + 2]
        assert ends.tolist() == [curve[start : start + 1001].min(), curve[start : start + 1001].max()]
    short = torch.randn(1500).double()
    assert outline(short, 1000)[1] is short


def test_half_a_minute_of_audio() -> None:
    sound = torch.randn(1, 480_000)
    assert show.signal(sound, sound, rate=16000).caption.endswith("each bar sums 1200 values (75 ms)")


def test_channels_have_panels() -> None:
    one, three = (show.signal(torch.rand(n, 9), torch.ones(n, 9)).image.height for n in (1, 3))
    many = show.signal(torch.rand(12, 9), torch.ones(12, 9), channels=[str(n) for n in range(12)])
    assert one < three < many.image.height < 2500


def test_long_names_of_channels_are_divided() -> None:
    short = show.signal(torch.rand(2, 9), torch.ones(2, 9), channels=["a", "b"]).image
    long = show.signal(torch.rand(2, 9), torch.ones(2, 9), channels=["a", "several words " * 6]).image
    assert long.width > short.width and long.height == short.height
    # The gap between the panels is empty at the names.
    gap = slice(int(DPI * (0.2 + 1.1 + 0.02)), int(DPI * (0.2 + 1.1 + 0.12)))
    assert (numpy.asarray(long)[gap, : int(DPI * LEFT)] == 255).all()


def test_dollar_signs_are_no_formulas() -> None:
    show.signal(torch.rand(2, 9), torch.ones(2, 9), channels=["$5 and \\frac $", "_^$ $x_$"])


def test_a_constant_signal_without_relevance() -> None:
    picture = show.signal(torch.ones(20), torch.zeros(20))
    assert picture.scale == 0 and picture.caption == "all relevance is zero, sum 0"
    assert not spans(picture, RED) and not spans(picture, BLUE)


def test_it_is_saved_with_its_caption(tmp_path: Path) -> None:
    picture = show.signal(torch.ones(20), torch.ones(20))
    picture.save(tmp_path / "signal.png")
    assert Image.open(tmp_path / "signal.png").info["Description"] == picture.caption


WRONG: dict[str, tuple[tuple[Any, Any, dict[str, Any]], str]] = {
    "shapes": ((torch.zeros(4), torch.zeros(5), {}), r"shape \(4,\) and relevance of shape \(5,\) are not the same"),
    "channels": ((torch.zeros(2, 4), torch.zeros(1, 4), {}), "are not the same channels and length"),
    "batch": (
        (torch.zeros(2, 1, 4), torch.zeros(2, 1, 4), {}),
        r"values of shape \(2, 1, 4\) has 2 samples.*values\[0\]",
    ),
    "dimensions": ((torch.zeros(1, 1, 1, 4), torch.zeros(4), {}), r"is not \(length,\), \(channels, length\) or"),
    "NaN": ((torch.zeros(2), torch.tensor([1.0, float("nan")]), {}), "relevance of shape .* has 1 NaN"),
    "infinite": ((torch.tensor([1.0, float("inf")]), torch.zeros(2), {}), "values of shape .* 1 infinite elements$"),
    "rate": ((torch.zeros(2), torch.zeros(2), {"rate": 0}), "rate=0 is not a positive number"),
    "bins": ((torch.zeros(2), torch.zeros(2), {"bins": 0}), "bins=0 is not a whole number"),
    "names": ((torch.zeros(2), torch.zeros(2), {"channels": ["a", "b"]}), "channels has 2 names, but there are 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_signals_are_errors(name: str) -> None:
    (values, relevance, options), message = WRONG[name]
    with pytest.raises(InputError, match=message):
        show.signal(values, relevance, **options)

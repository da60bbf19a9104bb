"""Grids: what is where, and on which scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from fxlrp import show
from fxlrp.errors import InputError

RED, BLUE, WHITE = (165, 15, 21), (8, 81, 156), (255, 255, 255)
DPI = 160


def count(picture: show.Picture, color: tuple[int, int, int]) -> int:
    """How many pixels of the grid have a color."""
    return int((numpy.asarray(picture.image) == color).all(-1).sum())


def plain(color: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, color)


def where(picture: show.Picture, color: tuple[int, int, int]) -> tuple[float, float, float, float]:
    """The box of a color in inches: left, top, right and bottom."""
    rows, columns = (numpy.asarray(picture.image) == color).all(-1).nonzero()
    return tuple(float(each) / DPI for each in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))  # type: ignore[return-value]


GREEN, PINK, GRAY = (0, 200, 0), (250, 0, 250), (90, 90, 90)


def test_cells_are_in_rows_and_columns_of_the_given_width() -> None:
    picture = show.grid([[plain(GREEN), plain(PINK)], [None, plain(GRAY, (8, 4))]], width=1.5)
    green, pink, gray = (where(picture, color) for color in (GREEN, PINK, GRAY))
    for left, top, right, bottom in (green, pink, gray):
        assert right - left == pytest.approx(1.5, abs=0.03)
        assert bottom - top == pytest.approx(0.75 if (left, top, right, bottom) == gray else 1.5, abs=0.03)
    assert green[1] == pytest.approx(pink[1], abs=0.01) and green[2] < pink[0]
    assert gray[0] == pytest.approx(pink[0], abs=0.01) and gray[1] > pink[3]


def test_a_sequence_of_cells_is_a_row_or_is_divided_into_columns() -> None:
    cells = [plain(GREEN), plain(PINK), plain(GRAY)]
    row = show.grid(cells)
    assert where(row, GREEN)[1] == pytest.approx(where(row, GRAY)[1], abs=0.01)
    wrapped = show.grid(cells, columns=2)
    assert where(wrapped, GRAY)[0] == pytest.approx(where(wrapped, GREEN)[0], abs=0.01)
    assert where(wrapped, GRAY)[1] > where(wrapped, GREEN)[3]


def test_without_heatmaps_there_is_no_scale() -> None:
    picture = show.grid([plain(GREEN)])
    assert picture.scale is None and picture.caption == ""
    assert count(picture, RED) == count(picture, BLUE) == 0


def test_tensors_arrays_and_batches_are_images() -> None:
    tensor = torch.full((3, 4, 4), 0.6)
    expected = count(show.grid([tensor, tensor]), (153, 153, 153))
    assert expected > 2 * 300 * 300
    assert count(show.grid(torch.stack((tensor, tensor))), (153, 153, 153)) == expected
    assert count(show.grid([tensor.permute(1, 2, 0).numpy()] * 2), (153, 153, 153)) == expected


SQUARE, FLAT = show.heatmap(torch.ones(2, 2)), show.heatmap(torch.ones(1, 60))
ONE, TWO = torch.tensor([[1.0, 0.0]]), torch.tensor([[-2.0, 0.0]])


def test_each_heatmap_keeps_its_scale_which_is_below_it() -> None:
    picture = show.grid([show.heatmap(ONE, quantile=1), show.heatmap(TWO, quantile=1)])
    assert picture.scale is None
    assert picture.caption == "full color at the scale below each heatmap (the largest)"
    assert min(count(picture, RED), count(picture, BLUE)) > 100 * 200


def test_a_shared_scale_is_the_quantile_of_all_heatmaps() -> None:
    maps = [show.heatmap(ONE), show.heatmap(TWO), show.overlay(torch.ones(1, 1, 2), ONE)]
    picture = show.grid(maps, scale="shared", quantile=0.5)
    everything = numpy.abs(numpy.array([1.0, 0, -2, 0, 1, 0]))
    assert picture.scale == pytest.approx(numpy.quantile(everything, 0.5))
    assert picture.caption == "full color at ±0.5 (the 0.5 quantile of all 3 heatmaps)"
    largest = show.grid(maps, scale="shared", quantile=1)
    assert largest.scale == 2
    half = (250, 125, 93)  # relevance 1 of 2
    assert count(largest, half) > 100 * 200


def test_a_given_scale_is_that_of_all_heatmaps() -> None:
    picture = show.grid([show.heatmap(ONE), show.heatmap(TWO)], scale=4)
    assert picture.scale == 4 and picture.caption == "full color at ±4 (given)"


@pytest.mark.parametrize("cells", [[[None], [SQUARE]], [[FLAT]]])
def test_the_bar_is_high_enough_for_its_numbers(cells: list[list[show.Heatmap | None]]) -> None:
    picture = show.grid(cells)
    beside = numpy.asarray(picture.image)[:, int(DPI * (0.2 + 2 + 0.12 + 0.05 + 0.06))]
    (bar,) = (beside != 255).any(-1).nonzero()
    assert len(bar) / DPI == pytest.approx(0.5, abs=0.03)
    assert bar.max() < picture.image.height - 0.2 * DPI


def test_heatmaps_of_the_same_scale_have_one() -> None:
    picture = show.grid([show.heatmap(ONE, scale=2), show.heatmap(TWO, scale=2)])
    assert picture.scale == 2 and picture.caption == "full color at ±2 (given)"


def test_heatmaps_without_relevance() -> None:
    picture = show.grid([show.heatmap(torch.zeros(2, 2))])
    assert picture.scale == 0 and picture.caption == "all relevance is zero"
    assert count(picture, RED) == 0
    mixed = show.grid([show.heatmap(torch.zeros(1, 2)), show.heatmap(ONE, quantile=1)])
    assert mixed.scale is None and "the largest" in mixed.caption


def test_long_titles_and_names_are_divided_and_enlarge_the_grid() -> None:
    short = show.grid([plain(GREEN), plain(PINK)], titles=["a", "b"], rows=["c"])
    long = show.grid([plain(GREEN), plain(PINK)], titles=["a", "several words " * 6], rows=["a name " * 9])
    assert where(long, GREEN)[1] > where(short, GREEN)[1] + 0.25
    assert where(long, GREEN)[0] < 2.0
    bare = show.grid([plain(GREEN), plain(PINK)])
    assert where(bare, GREEN)[1] < where(short, GREEN)[1]


def test_titles_of_columns_of_cells_and_of_a_sequence() -> None:
    cells = [[plain(GREEN), plain(PINK)], [plain(GRAY), None]]
    one = show.grid(cells, titles=["a", "b"])
    both = show.grid(cells, titles=[["a", "b"], ["c"]])
    assert both.image.height > one.image.height
    show.grid([plain(GREEN)] * 3, columns=2, titles=["a", "b", "c"])


def test_dollar_signs_are_no_formulas() -> None:
    show.grid([plain(GREEN)], titles=["$5 and \\frac $"], rows=["_^$"], heading="$x_$")


def test_it_is_saved_as_it_is(tmp_path: Path) -> None:
    picture = show.grid([show.heatmap(ONE)])
    picture.save(tmp_path / "grid.png")
    saved = Image.open(tmp_path / "grid.png")
    assert saved.size == picture.image.size and saved.info["Description"] == picture.caption


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "relevance": ({"cells": [torch.tensor([[1.0, -2.0]])]}, r"values of torch.float32 from -2 to 1.*show.heatmap\(rel"),
    "nothing": ({"cells": []}, "is not a sequence of pictures"),
    "only None": ({"cells": [[None]]}, "contains no picture"),
    "one picture": ({"cells": plain(GREEN)}, "cells=Image is not a sequence of pictures or of rows of pictures"),
    "rows and cells": ({"cells": [[plain(GREEN)], plain(GREEN)]}, "contains rows and single cells"),
    "columns of rows": ({"cells": [[plain(GREEN)]], "columns": 2}, "has rows already"),
    "no column": ({"columns": 0}, "columns=0 is not a whole number of at least 1"),
    "few titles": ({"titles": ["a"]}, "there are 1 titles for 1 rows of 2 cells"),
    "rows of titles": ({"titles": [["a"], ["b"]]}, r"there are 1 \+ 1 titles for 1 rows of 2 cells"),
    "title": ({"titles": "ab"}, "titles='ab' is not a sequence of strings"),
    "number": ({"titles": ["a", 3]}, "titles contains 3, which is not a string"),
    "names": ({"rows": ["a", "b"]}, "rows has 2 names, but there are 1 rows"),
    "scale": ({"scale": "same"}, "scale='same' is not None, 'shared' or a number"),
    "scale of images": ({"scale": "shared"}, "cells contains none: show.heatmap makes them"),
    "negative scale": ({"cells": [show.heatmap(ONE)], "scale": -1}, "scale=-1 is not a positive number"),
    "quantile": ({"cells": [show.heatmap(ONE)], "scale": "shared", "quantile": 2}, "quantile=2"),
    "no title": ({"titles": ["a", None]}, "titles contains None, which is not a string"),
    "number of titles": ({"titles": 2}, "titles=2 is not a sequence of strings"),
    "no heading": ({"heading": None}, "heading contains None, which is not a string"),
    "heading": ({"heading": 3}, "heading contains 3, which is not a string"),
    "width": ({"width": 0}, "width=0 is not a number of inches"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_grids_are_errors(name: str) -> None:
    arguments, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        show.grid(**{"cells": [plain(GREEN), plain(PINK)], **arguments})

"""Images of pillow in modes other than RGB, wherever fxlrp reads one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image as images

from fxlrp.errors import InputError
from fxlrp.pictures import opened, rgb


def sixteen_bits() -> Any:
    """Gray values from black to white, as 16 bits have them: 257 times those of 8 bits."""
    return images.fromarray((numpy.arange(256, dtype=numpy.uint16) * 257).reshape(16, 16))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_gray_values_of_16_bits_are_scaled(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"gray.{ending}"
    sixteen_bits().save(path)
    found = numpy.asarray(rgb(opened(path)))
    assert (found == numpy.arange(256).reshape(16, 16, 1)).all()


def test_every_reader_scales_them() -> None:
    """Pillow clips them: all but the darkest would be white."""
    from fxlrp.commands.images import default_image
    from fxlrp.demo.photographs import middle
    from fxlrp.show.arrays import image_of

    gray = sixteen_bits().resize((64, 64))
    eight = images.fromarray((numpy.asarray(gray) / 257).round().astype(numpy.uint8))
    for read in (default_image, lambda image: middle(image, 32), lambda image: numpy.asarray(image_of(image)) / 255):
        difference = abs(numpy.asarray(read(gray)) - numpy.asarray(read(eight)))
        assert difference.max() < 0.03


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_an_image_that_does_not_say_which_value_is_white_is_refused(dtype: str) -> None:
    with pytest.raises(InputError, match="which value is white: save it with 8 bits"):
        rgb(images.fromarray(numpy.ones((4, 4), dtype=dtype)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_other_modes_become_what_pillow_makes_of_them(mode: str) -> None:
    image = images.linear_gradient("L").convert(mode)
    assert (numpy.asarray(rgb(image)) == numpy.asarray(image.convert("RGB"))).all()

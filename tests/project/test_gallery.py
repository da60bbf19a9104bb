"""The rule gallery: a picture for every preset, the pictures of the script and no others, and a small repository."""

from __future__ import annotations

import re
import runpy

import pytest
from PIL import Image

from fxlrp.rules.presets import PRESETS
from helpers import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "gallery.md").read_text()


def test_the_page_shows_every_picture_of_the_script() -> None:
    chosen = runpy.run_path(str(DOCS / "make_gallery.py"))["CHOICES"]
    shown = re.findall(r"\]\(gallery/(\w+)\.jpg\)", PAGE)
    assert sorted(shown) == sorted(chosen) == sorted(path.stem for path in (DOCS / "gallery").iterdir())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_page_has_every_preset(preset: str) -> None:
    assert re.search(rf"[`\"'.]{preset}\b|rules=None" if preset == "default" else rf"[`\".]{preset}\b", PAGE)


def test_pictures_are_small() -> None:
    pictures = [DOCS / "photo.jpg", *(DOCS / "gallery").iterdir()]
    assert sum(path.stat().st_size for path in pictures) < 1_500_000
    for path in pictures:
        with Image.open(path) as picture:
            assert 400 <= picture.width <= 1000 and picture.format == "JPEG"

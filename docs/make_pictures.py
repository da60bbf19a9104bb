"""Make the pictures of `pictures.md`: run the page in `docs/pictures`, and photograph its HTML with Chromium."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

HERE = Path(__file__).parent
PICTURES = HERE / "pictures"


def photograph(page: Path, browser: str) -> None:
    """Write a PNG of a page beside it, without its white margin, and remove the page."""
    picture = page.with_suffix(".png")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}"]
        size = ["--force-device-scale-factor=2", "--window-size=700,300"]
        subprocess.run(
            [browser, *options, *size, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True
        )
    image = Image.open(picture).convert("RGB")
    left, top, right, bottom = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox() or (
        0,
        0,
        1,
        1,
    )
    image.crop((max(left - 16, 0), max(top - 16, 0), right + 16, bottom + 16)).save(picture)
    page.unlink()


def main() -> None:
    """Make all pictures."""
    page = (HERE / "pictures.md").read_text(encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    os.chdir(PICTURES)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(compile(block, "pictures.md", "exec"), namespace)
    for each in PICTURES.glob("*.html"):
        photograph(each, sys.argv[1] if len(sys.argv) > 1 else "chromium")


if __name__ == "__main__":
    main()

"""Make the pictures of some pages: run them, and photograph the HTML that they write.

It needs Chromium, and transformers for the last part of `language-model.md`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

from fxlrp.extras import import_torchvision

HERE = Path(__file__).resolve().parent
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


def make(page: Path, browser: str) -> None:
    """Run a page in an empty folder, and keep the pictures that it shows."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "page"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            exec(compile(block, page.name, "exec"), namespace)
        for each in Path(folder).glob("*.html"):
            photograph(each, browser)
        for name in re.findall(r"\(pictures/(\w+\.png)\)", text):
            shutil.copy(Path(folder) / name, PICTURES / name)
        os.chdir(HERE)


def main() -> None:
    """Make all pictures."""
    import_torchvision()  # transformers imports it
    PICTURES.mkdir(exist_ok=True)
    for name in ("pictures.md", "language-model.md", "serve-explanations.md"):
        make(HERE / name, sys.argv[1] if len(sys.argv) > 1 else "chromium")


if __name__ == "__main__":
    main()

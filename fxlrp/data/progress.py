"""How far a run over a dataset is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fxlrp.data.store import EXTRA
from fxlrp.extras import require


@contextmanager
def progress_bar(samples: int | None, written: int, shown: bool) -> Iterator[Callable[[int], Any]]:
    """Show a bar if ``shown``, and give the function that advances it by a number of samples."""
    if not shown:
        yield lambda count: None
        return
    tqdm = require("tqdm", EXTRA).tqdm
    with tqdm(total=samples, initial=written, unit="sample") as bar:
        yield bar.update

"""What a process keeps of calls that are repeated."""

from __future__ import annotations

import ctypes
import gc
import linecache
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.fx import graph_module


@dataclass(frozen=True)
class Growth:
    """What repeated calls left behind.

    Args:
        megabytes: The memory of the process; 0 where the system does not tell.
        sources: The generated sources that torch.fx and linecache keep.
        objects: The objects that Python's garbage collector tracks.
    """

    megabytes: float
    sources: int
    objects: int


def growth(function: Callable[[], Any], count: int, before: int | None = None) -> Growth:
    """Call a function many times and return what that left behind.

    Args:
        function: The function.
        count: The number of calls.
        before: The number of calls before the count starts, which fill caches; a quarter by default.
    """
    for _ in range(max(3, count // 4) if before is None else before):
        function()
    first = _kept()
    for _ in range(count):
        function()
    last = _kept()
    return Growth(last.megabytes - first.megabytes, last.sources - first.sources, last.objects - first.objects)


def _kept() -> Growth:
    gc.collect()
    gc.collect()
    # Memory that is free, but was not given back to the system, would count.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    megabytes = pages * os.sysconf("SC_PAGESIZE") / 2**20 if pages else 0.0
    sources = len(graph_module._loader.eval_cache) + len(linecache.cache)
    return Growth(megabytes, sources, len(gc.get_objects()))

"""Values that are put at indices: an assignment, unless they are added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from fxlrp.decomposition.builder import Builder, Made


def _index_put(build: Builder, input: Any, indices: Any, values: Any, accumulate: Any) -> fx.Node | None:
    if accumulate is not False:
        return None
    return build("setitem", input, tuple(slice(None) if index is None else index for index in indices), values)


DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {"index_put": _index_put}

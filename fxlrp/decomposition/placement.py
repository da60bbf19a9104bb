"""Values that are put at indices or into a slice: an assignment, unless they are added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from fxlrp.decomposition.builder import Builder, Made


def _index_put(build: Builder, input: Any, indices: Any, values: Any, accumulate: Any) -> fx.Node | None:
    if accumulate is not False:
        return None
    return build("setitem", input, tuple(slice(None) if index is None else index for index in indices), values)


def _select_scatter(build: Builder, input: Any, src: Any, dim: int, index: Any) -> fx.Node:
    return _set(build, input, dim, index, src)


def _slice_scatter(build: Builder, input: Any, src: Any, dim: int, **limits: Any) -> fx.Node:
    return _set(build, input, dim, slice(*limits.values()), src)


def _set(build: Builder, input: Any, dim: int, index: Any, value: Any) -> fx.Node:
    """An assignment at an index of a dimension, which may be counted from the end."""
    every = slice(None)
    return build("setitem", input, (..., index, *[every] * (-dim - 1)) if dim < 0 else (*[every] * dim, index), value)


DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {
    "index_put": _index_put,
    "select_scatter": _select_scatter,
    "slice_scatter": _slice_scatter,
}

"""Layers whose weights are computed from an input: a product of matrices, and an index into a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from fxlrp.decomposition.builder import Builder, Made


def _linear(build: Builder, input: Any, weight: Any, bias: Any) -> fx.Node | None:
    """A product of two values, which share relevance; None for a weight that is a parameter."""
    if not build.depends(weight):
        return None
    product = build("matmul", input, build("t", weight))
    return product if bias is None else build("add", product, bias)


def _embedding(build: Builder, input: Any, weight: Any, **given: Any) -> fx.Node | None:
    return build("getitem", weight, input) if is_computed(build, input, weight) else None


def is_computed(build: Builder, tokens: Any, table: Any) -> bool:
    """Whether the rows of a table depend on an input, but the tokens that select them do not."""
    return build.depends(table) and not build.depends(tokens)


DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {"linear": _linear, "embedding": _embedding}

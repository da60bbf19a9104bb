"""Embedding bags: the rows of a table, and their sum, mean or maximum in each bag."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from fxlrp.decomposition.builder import Builder, Made
from fxlrp.decomposition.computed_weights import is_computed


def _embedding_bag(build: Builder, input: Any, weight: Any, offsets: Any, mode: str, **given: Any) -> fx.Node:
    """The rows of a table that the tokens of a bag select, weighted, and their sum, mean or maximum."""
    rows = ("getitem", weight, input) if is_computed(build, input, weight) else ("embedding", input, weight)
    vectors, padding = build(*rows), given["padding_idx"]
    if given["per_sample_weights"] is not None:
        vectors = build("mul", vectors, build("unsqueeze", given["per_sample_weights"], -1))
    is_padding = None
    if padding is not None:
        padding = build("add", build("size", weight, 0), padding) if padding < 0 else padding
        is_padding = build("eq", input, padding)
        absent = -math.inf if mode == "max" else 0.0
        vectors = build("masked_fill", vectors, build("unsqueeze", is_padding, -1), absent)
    if mode == "max":
        return _largest_of_bags(build, vectors, offsets, given["include_last_offset"], is_padding)

    if mode == "mean":
        vectors = build("div", vectors, build("unsqueeze", _bag_sizes(build, input, offsets, is_padding, given), -1))
    return _sum_of_bags(build, vectors, offsets, given)


def _sum_of_bags(build: Builder, values: Any, offsets: Any, given: Mapping[str, Any]) -> fx.Node:
    if offsets is None:
        return build("sum", values, dim=1)
    return build("sum_bags", values, offsets, include_last_offset=given["include_last_offset"])


def _bag_sizes(build: Builder, input: Any, offsets: Any, is_padding: Any, given: Mapping[str, Any]) -> fx.Node:
    """The number of tokens, except for padding, in the bag of each token."""
    if is_padding is None:
        counted = build("ones_like", input, dtype=torch.long)
    else:
        counted = build("long", build("invert", is_padding))
    counts = build("clamp_min", _sum_of_bags(build, counted, offsets, given), 1)
    if offsets is None:
        return build("unsqueeze", counts, -1)
    return build("index_select", counts, 0, build("bag_of_rows", input, offsets))


def _largest_of_bags(build: Builder, vectors: fx.Node, offsets: Any, include_last: bool, is_padding: Any) -> fx.Node:
    if offsets is None:
        largest = build("amax", vectors, dim=1)
        # A bag of padding alone gives zeros.
        return largest if is_padding is None else build("masked_fill", largest, build("isinf", largest), 0.0)
    rows = build("largest_in_bags", vectors, offsets, include_last_offset=include_last)
    largest = build("gather", vectors, 0, rows)
    counted = build("ones_like", vectors) if is_padding is None else build("isfinite", vectors)
    counts = build("sum_bags", build("long", counted), offsets, include_last_offset=include_last)
    return build("masked_fill", largest, build("eq", counts, 0), 0.0)


DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {"embedding_bag": _embedding_bag}

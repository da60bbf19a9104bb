"""Norms whose weights are computed from an input, values that are filled in, and bounds: products, choices, maxima."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import fx

from fxlrp.decomposition.builder import Builder, Made


def _of_last_dimensions(
    name: str, build: Builder, input: Any, normalized_shape: Any, weight: Any, bias: Any = None, **others: Any
) -> fx.Node | None:
    """``norm(x) * weight + bias``; None for parameters."""
    if not (build.depends(weight) or build.depends(bias)):
        return None
    return _scaled(build, build(name, input, normalized_shape, **others), weight, bias)


def _of_channels(name: str, build: Builder, input: Any, weight: Any, bias: Any, **others: Any) -> fx.Node | None:
    """The same with an element for each channel, the second dimension, which is the last one for the product."""
    if not (build.depends(weight) or build.depends(bias)):
        return None
    normed = build(name, input, **others)
    return build("movedim", _scaled(build, build("movedim", normed, 1, -1), weight, bias), -1, 1)


def _scaled(build: Builder, normed: fx.Node, weight: Any, bias: Any) -> fx.Node:
    scaled = normed if weight is None else build("mul", normed, weight)
    return scaled if bias is None else build("add", scaled, bias)


def _masked_fill(build: Builder, input: Any, mask: Any, value: Any) -> fx.Node | None:
    return build("where", mask, value, input) if build.depends(value) else None


def _clamp(build: Builder, input: Any, min: Any = None, max: Any = None) -> fx.Node | None:
    """``minimum(maximum(x, min), max)``; None for bounds that are numbers or parameters."""
    if not (build.depends(min) or build.depends(max)):
        return None
    # PyTorch takes either two numbers or two tensors.
    found = input if min is None else build("maximum", input, min)
    return found if max is None else build("minimum", found, max)


DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {
    **{name: partial(_of_last_dimensions, name) for name in ("layer_norm", "rms_norm")},
    **{name: partial(_of_channels, name) for name in ("batch_norm", "instance_norm", "group_norm")},
    "masked_fill": _masked_fill,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max"), _clamp),
}

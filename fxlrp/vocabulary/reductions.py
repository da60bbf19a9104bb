"""Pooling, and operations that reduce or resample dimensions: means, sums, norms, interpolation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from fxlrp.bags import sum_bags
from fxlrp.operation import REQUIRED, Call, Family, Gate, Operation
from fxlrp.vocabulary import facts


def max_pooling() -> Iterator[Operation]:
    """The operations that select the largest element."""
    known: dict[str, Any] = dict(
        allocates=True, non_negative=facts.of_operands, finite=facts.finite_operands, keeps_support=facts.always
    )
    for n in (1, 2, 3):
        windows = dict(input=REQUIRED, kernel_size=REQUIRED, stride=None, padding=0, dilation=1, ceil_mode=False)
        values = {"return_indices": False}
        function = getattr(F, f"max_pool{n}d")
        yield Operation(f"max_pool{n}d", Family.MAX_POOL, function, {**windows, **values}, dims=n, **known)
        function, sizes = getattr(F, f"adaptive_max_pool{n}d"), dict(input=REQUIRED, output_size=REQUIRED)
        yield Operation(
            f"adaptive_max_pool{n}d",
            Family.MAX_POOL,
            function,
            {**sizes, **values},
            required_values=values,
            dims=n,
            **known,
        )
    yield Operation("amax", Family.MAX_POOL, torch.amax, {"input": REQUIRED, "dim": (), "keepdim": False}, **known)


def _interpolates_within(call: Call) -> bool:
    """Whether results stay within the range of the operand: the cubic modes overshoot."""
    modes = ("nearest", "nearest-exact", "area", "linear", "bilinear", "trilinear")
    return call.arguments["mode"] in modes and facts.of_operands(call)


def averages() -> Iterator[Operation]:
    """Linear operations without weights, and statistics."""
    for n in (1, 2, 3):
        windows: dict[str, Any] = dict(
            input=REQUIRED, kernel_size=REQUIRED, stride=None, padding=0, ceil_mode=False, count_include_pad=True
        )
        if n > 1:
            windows["divisor_override"] = None
        yield Operation(
            f"avg_pool{n}d",
            Family.AVERAGE,
            getattr(F, f"avg_pool{n}d"),
            windows,
            dims=n,
            allocates=True,
            non_negative=facts.of_arguments("input", "divisor_override"),
            finite=facts.finite_operands,
        )
        yield Operation(
            f"adaptive_avg_pool{n}d",
            Family.AVERAGE,
            getattr(F, f"adaptive_avg_pool{n}d"),
            {"input": REQUIRED, "output_size": REQUIRED},
            dims=n,
            allocates=True,
            non_negative=facts.of_operands,
            finite=facts.finite_operands,
        )
    reduction: dict[str, Any] = {"input": REQUIRED, "dim": None, "keepdim": False, "dtype": None}
    sums: dict[str, Any] = dict(allocates=True, non_negative=facts.of_operands, finite=facts.finite_operands)
    yield Operation("mean", Family.AVERAGE, torch.mean, reduction, rowwise=facts.along_rows, **sums)
    yield Operation("sum", Family.AVERAGE, torch.sum, reduction, rowwise=facts.along_rows, **sums)
    running = {"input": REQUIRED, "dim": REQUIRED, "dtype": None}
    yield Operation("cumsum", Family.AVERAGE, torch.cumsum, running, **sums)
    bags = {"input": REQUIRED, "offsets": REQUIRED, "include_last_offset": False}
    yield Operation("sum_bags", Family.AVERAGE, sum_bags, bags, without_relevance=("offsets",), **sums)
    windows = dict(input=REQUIRED, output_size=REQUIRED, kernel_size=REQUIRED, dilation=1, padding=0, stride=1)
    yield Operation("fold", Family.AVERAGE, F.fold, windows, **sums)
    yield Operation(
        "vector_norm",
        Family.AVERAGE,
        torch.linalg.vector_norm,
        {"input": REQUIRED, "ord": 2, "dim": None, "keepdim": False, "dtype": None},
        aliases=("linalg_vector_norm",),
        allocates=True,
        gate=Gate.STATISTIC,
    )
    for name in ("var", "std"):
        spread: dict[str, Any] = dict(input=REQUIRED, dim=None, unbiased=None, keepdim=False, correction=None)
        known: dict[str, Any] = {"allocates": True, "rowwise": facts.along_rows}
        yield Operation(name, Family.AVERAGE, getattr(torch, name), spread, **known)
    yield Operation(
        "interpolate",
        Family.AVERAGE,
        F.interpolate,
        dict(
            input=REQUIRED,
            size=None,
            scale_factor=None,
            mode="nearest",
            align_corners=None,
            recompute_scale_factor=None,
            antialias=False,
        ),
        aliases=("upsample",),
        allocates=True,
        keeps_dimensions=True,
        non_negative=_interpolates_within,
        finite=facts.finite_operands,
    )

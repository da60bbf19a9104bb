"""Normalization layers in eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F

from fxlrp.operation import REQUIRED, Call, Family, Operation
from fxlrp.vocabulary import facts


def _normalizes_rows(call: Call) -> bool:
    shape = call.arguments["normalized_shape"]
    return isinstance(shape, list | tuple) and len(shape) == 1  # not a size of another value, whose rank is unknown


def normalization() -> Iterator[Operation]:
    """The normalization layers."""
    affine: dict[str, Any] = dict(weight=None, bias=None)
    statistics: dict[str, Any] = dict(running_mean=None, running_var=None, **affine)
    layers: Mapping[str, dict[str, Any]] = {
        "batch_norm": {
            **statistics,
            **dict(running_mean=REQUIRED, running_var=REQUIRED, training=False, momentum=0.1, eps=1e-5),
        },
        "instance_norm": dict(**statistics, use_input_stats=True, momentum=0.1, eps=1e-5),
        "layer_norm": dict(normalized_shape=REQUIRED, **affine, eps=1e-5),
        "group_norm": dict(num_groups=REQUIRED, **affine, eps=1e-5),
        "rms_norm": dict(normalized_shape=REQUIRED, weight=None, eps=None),
    }
    for name, parameters in layers.items():
        shifts = tuple(each for each in ("bias", "running_mean") if each in parameters)
        yield Operation(
            name,
            Family.NORMALIZATION,
            getattr(F, name),
            {"input": REQUIRED, **parameters},
            required_values={"training": False} if "training" in parameters else {},
            allocates=True,
            shifts=facts.arguments_named(*shifts) if shifts else None,
            finite=facts.finite_operands,
            is_cheap=name in ("layer_norm", "rms_norm"),
            rowwise=_normalizes_rows if name in ("layer_norm", "rms_norm") else None,
        )

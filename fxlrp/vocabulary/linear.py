"""Dense layers, convolutions and transposed convolutions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from fxlrp.operation import REQUIRED, Family, Operation
from fxlrp.vocabulary import facts


def linear() -> Iterator[Operation]:
    """The linear maps with weights."""
    parameters = {"input": REQUIRED, "weight": REQUIRED, "bias": None}
    known: dict[str, Any] = {
        "allocates": True,
        "finite": facts.finite_operands,
        "shifts": facts.arguments_named("bias"),
    }
    yield Operation("linear", Family.LINEAR, F.linear, parameters, rowwise=facts.always, **known)
    for n in (1, 2, 3):
        yield Operation(
            f"conv{n}d",
            Family.LINEAR,
            getattr(torch, f"conv{n}d"),
            dict(**parameters, stride=1, padding=0, dilation=1, groups=1),
            dims=n,
            **known,
        )
        yield Operation(
            f"conv_transpose{n}d",
            Family.LINEAR,
            getattr(torch, f"conv_transpose{n}d"),
            dict(**parameters, stride=1, padding=0, output_padding=0, groups=1, dilation=1),
            dims=n,
            transposes=True,
            **known,
        )

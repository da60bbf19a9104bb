"""Operations that do not change values in eval mode, and checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from fxlrp.functions import expect_dims
from fxlrp.operation import REQUIRED, Family, Operation
from fxlrp.vocabulary import facts


def checks() -> Iterator[Operation]:
    """Checks that return the value that they check."""
    yield Operation(
        "expect_dims",
        Family.CHECK,
        expect_dims,
        {"input": REQUIRED, "dims": REQUIRED, "why": REQUIRED},
        non_negative=facts.of_operands,
        finite=facts.finite_operands,
        keeps_support=facts.always,
        neutral=True,
        arranges=True,
    )


def identities() -> Iterator[Operation]:
    """The operations that ``passes/remove_identities.py`` removes."""
    in_eval: dict[str, Any] = dict(required_values={"training": False})
    dropout: dict[str, Any] = {"input": REQUIRED, "p": 0.5, "training": True, "inplace": False}
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d"):
        aliases = ("feature_dropout",) if name == "dropout1d" else ()
        yield Operation(name, Family.IDENTITY, getattr(F, name), dropout, aliases=aliases, **in_eval)
    for name in ("alpha_dropout", "feature_alpha_dropout"):
        yield Operation(name, Family.IDENTITY, getattr(F, name), {**dropout, "training": False}, **in_eval)
    yield Operation(
        "stochastic_depth",
        Family.IDENTITY,
        _identity,
        dict(input=REQUIRED, p=REQUIRED, mode=REQUIRED, training=True),
        qualified_names=("torchvision.ops.stochastic_depth.stochastic_depth",),
        **in_eval,
    )
    for name in ("contiguous", "clone", "detach", "positive"):
        yield Operation(
            name,
            Family.IDENTITY,
            getattr(torch.Tensor, name),
            {"input": REQUIRED, "memory_format": None},
            aliases=("pos",) if name == "positive" else (),
            allocates=name == "clone",
        )


def _identity(input: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return input

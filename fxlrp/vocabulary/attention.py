"""The operations of attention and embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

import fxlrp.attention as fused
from fxlrp.functions import mask_scores
from fxlrp.operation import REQUIRED, Family, Gate, Operation
from fxlrp.vocabulary import facts


def attention() -> Iterator[Operation]:
    """Softmax, masks and embeddings."""
    along: dict[str, Any] = {"input": REQUIRED, "dim": REQUIRED, "dtype": None}
    of_python = {**along, "_stacklevel": 3}
    gate: dict[str, Any] = dict(allocates=True, non_negative=facts.always, gate=Gate.SATURATING)
    gate.update(finite=facts.finite_operands, rowwise=facts.along_rows)
    yield Operation("softmax", Family.SOFTMAX, F.softmax, of_python, **gate)
    yield Operation("safe_softmax", Family.SOFTMAX, torch._safe_softmax, along, aliases=("_safe_softmax",), **gate)
    yield Operation("log_softmax", Family.SOFTMAX, F.log_softmax, of_python, allocates=True)
    yield Operation(
        "mask_scores",
        Family.MASK,
        mask_scores,
        {"input": REQUIRED, "mask": REQUIRED},
        ("input", "mask"),
        allocates=True,
        mask_operand="mask",
    )
    yield Operation(
        "attention",
        Family.ATTENTION,
        fused.attention,
        {
            **dict.fromkeys(("query", "keys", "value"), REQUIRED),
            **dict(mask=None, scale=1.0, is_causal=False, hides_finitely=False, shares_heads=False),
        },
        ("query", "keys", "value"),
        multiple_results=True,
        allocates=True,
        finite=facts.finite_operands,
        mask_operand="mask",
    )
    yield Operation(
        "embedding",
        Family.EMBEDDING,
        F.embedding,
        dict(
            input=REQUIRED,
            weight=REQUIRED,
            padding_idx=None,
            max_norm=None,
            norm_type=2.0,
            scale_grad_by_freq=False,
            sparse=False,
        ),
        required_values={"max_norm": None},
        allocates=True,
        finite=facts.finite_operands_and("weight"),
        token_operand="input",
    )

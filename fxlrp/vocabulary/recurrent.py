"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fxlrp.operation import REQUIRED, Family, Operation
from fxlrp.vocabulary import facts

_PARAMETERS = "input hx params has_biases num_layers dropout train bidirectional batch_first".split()


def recurrent() -> Iterator[Operation]:
    """The recurrent layers."""
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        yield Operation(
            name,
            Family.RECURRENT,
            getattr(torch, name),
            dict.fromkeys(_PARAMETERS, REQUIRED),
            ("input", "hx"),
            required_values={"train": False},
            multiple_results=True,
            allocates=True,
            finite=facts.finite_operands,
        )

"""Recurrent layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from fxlrp.operation import REQUIRED, Family, Operation
from fxlrp.vocabulary import facts

_PARAMETERS = "input hx params has_biases num_layers dropout train bidirectional batch_first".split()


def _biases(arguments: Mapping[str, Any]) -> Sequence[Any]:
    """The third and the fourth parameter of each direction of each layer."""
    parameters, directions = arguments["params"], 2 if arguments["bidirectional"] else 1
    count = len(parameters) // (arguments["num_layers"] * directions)
    biases = (2, 3) if arguments["has_biases"] else ()
    return [each for position, each in enumerate(parameters) if position % count in biases]


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
            shifts=_biases,
            allocates=True,
            finite=facts.finite_operands,
        )

"""A model of the survey with its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A model with example inputs and compile options.

    Args:
        model: The model, in eval mode and with random weights.
        inputs: The example inputs.
        options: Further arguments of :func:`fxlrp.compile`.
    """

    model: nn.Module
    inputs: Tensor | Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)

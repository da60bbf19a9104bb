"""The scores of the channels on a batch of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

Measure: TypeAlias = Literal["relevance", "activation"]

MEASURES: tuple[Measure, ...] = ("relevance", "activation")


@dataclass(frozen=True)
class Scored:
    """The scores of the channels on the samples of a batch. Tensors on the CPU.

    Args:
        samples: The indices of the samples, of shape ``(batch,)``.
        classes: Their explained classes, of shape ``(batch,)``; -1 where it is not known.
        places: By the name of the place and the measure, the scores ``(batch, channels)`` and the coordinates of the
            positions that respond most, ``(batch, channels, dimensions)``.
    """

    samples: Tensor
    classes: Tensor
    places: Mapping[str, Mapping[Measure, tuple[Tensor, Tensor]]]

"""The samples to which each channel responds most, updated batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NO_CLASS = -1
_NO_SAMPLE = -1


@dataclass(frozen=True)
class Top:
    """The samples to which a channel responds most, from the largest score.

    Args:
        scores: The score of each sample.
        samples: The indices of the samples.
        classes: The explained class of each, or -1 where it is not known.
        positions: The coordinates of the position that responds most, of shape ``(samples, dimensions)``.
    """

    scores: Tensor
    samples: Tensor
    classes: Tensor
    positions: Tensor

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.samples)


@dataclass(frozen=True)
class Best:
    """The best samples of every channel of a place. Tensors of shape ``(channels, k, ...)`` on the CPU.

    Args:
        scores: The scores, from the largest; minus infinity where there is no sample.
        samples: The indices of the samples.
        classes: The explained classes.
        positions: The coordinates of the positions, in a last dimension.
    """

    scores: Tensor
    samples: Tensor
    classes: Tensor
    positions: Tensor

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> Best:
        """Return what :meth:`state` returned."""
        return Best(state["scores"], state["samples"], state["classes"], state["positions"])

    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {
            "scores": self.scores,
            "samples": self.samples,
            "classes": self.classes,
            "positions": self.positions,
        }

    @staticmethod
    def empty(channels: int, k: int, dimensions: int) -> Best:
        """Return the best of no samples."""
        none = torch.full((channels, k), _NO_SAMPLE)
        scores = torch.full((channels, k), -torch.inf, dtype=torch.float64)
        return Best(scores, none, none, torch.full((channels, k, dimensions), _NO_SAMPLE))

    def updated(self, scores: Tensor, positions: Tensor, samples: Tensor, classes: Tensor) -> Best:
        """Return the best of these and of the samples of a batch; of equal scores, that of the smaller index.

        Args:
            scores: The scores, of shape ``(batch, channels)``.
            positions: The coordinates, of shape ``(batch, channels, dimensions)``.
            samples: The indices of the samples, of shape ``(batch,)``.
            classes: The explained classes, of shape ``(batch,)``.
        """
        channels, k = self.scores.shape
        all_scores = torch.cat([self.scores, scores.T], 1)
        all_samples = torch.cat([self.samples, samples.expand(channels, -1)], 1)
        all_classes = torch.cat([self.classes, classes.expand(channels, -1)], 1)
        all_positions = torch.cat([self.positions, positions.movedim(0, 1)], 1)
        order = all_samples.argsort(dim=1, stable=True)
        by_score = all_scores.gather(1, order).argsort(dim=1, descending=True, stable=True)
        chosen = order.gather(1, by_score)[:, :k]
        each = chosen.unsqueeze(-1).expand(-1, -1, all_positions.shape[-1])
        return Best(
            all_scores.gather(1, chosen),
            all_samples.gather(1, chosen),
            all_classes.gather(1, chosen),
            all_positions.gather(1, each),
        )

    def top(self, channel: int) -> Top:
        """Return the best samples of a channel."""
        found = self.samples[channel] != _NO_SAMPLE
        parts = (self.scores, self.samples, self.classes, self.positions)
        return Top(*(part[channel][found] for part in parts))

"""Statistics of the scores of each channel, for each class of target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Statistics:
    """Statistics of the scores of each channel over the samples of each class.

    Args:
        classes: The classes, in order; -1 for the samples whose class is not known.
        count: The number of samples of each.
        mean: The mean scores, of shape ``(classes, channels)``.
        std: Their standard deviations over the samples, without Bessel's correction.
    """

    classes: Tensor
    count: Tensor
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class ClassSums:
    """Counts, means and summed squared deviations, from which statistics follow, by class in order.

    Args:
        classes: The classes.
        count: The number of samples of each.
        mean: The mean scores of each channel.
        squares: The sums of the squared deviations from it.
    """

    classes: Tensor
    count: Tensor
    mean: Tensor
    squares: Tensor

    @staticmethod
    def of(state: Mapping[str, Tensor]) -> ClassSums:
        """Return what :meth:`state` returned."""
        return ClassSums(state["classes"], state["count"], state["mean"], state["squares"])

    def state(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {"classes": self.classes, "count": self.count, "mean": self.mean, "squares": self.squares}

    @staticmethod
    def empty(channels: int) -> ClassSums:
        """Return the sums of no samples."""
        none, sums = torch.zeros(0, dtype=torch.int64), torch.zeros(0, channels, dtype=torch.float64)
        return ClassSums(none, none, sums, sums)

    def updated(self, scores: Tensor, classes: Tensor) -> ClassSums:
        """Add the scores of a batch, of shape ``(batch, channels)``, whose samples have these classes."""
        batch = _of_batch(scores, classes)
        known = torch.cat([self.classes, batch.classes]).unique()
        old, new = self._on(known), batch._on(known)
        count = old.count + new.count
        # Chan's update: squared sums would cancel where the mean is large beside the deviation.
        share = (new.count / count).unsqueeze(1)
        difference = new.mean - old.mean
        squares = old.squares + new.squares + difference**2 * old.count.unsqueeze(1) * share
        return ClassSums(known, count, old.mean + difference * share, squares)

    def _on(self, classes: Tensor) -> ClassSums:
        """The same with rows for more classes."""
        rows = torch.searchsorted(classes, self.classes)
        count = self.count.new_zeros(len(classes)).index_copy(0, rows, self.count)
        none = self.mean.new_zeros(len(classes), self.mean.shape[1])
        return ClassSums(classes, count, none.index_copy(0, rows, self.mean), none.index_copy(0, rows, self.squares))

    def statistics(self) -> Statistics:
        """The statistics."""
        variance = self.squares / self.count.unsqueeze(1)
        return Statistics(self.classes, self.count, self.mean, variance.sqrt())


def _of_batch(scores: Tensor, classes: Tensor) -> ClassSums:
    found, rows, count = classes.unique(return_inverse=True, return_counts=True)
    sums = scores.new_zeros(len(found), scores.shape[1])
    mean = sums.index_add(0, rows, scores) / count.unsqueeze(1)
    return ClassSums(found, count, mean, sums.index_add(0, rows, (scores - mean[rows]) ** 2))

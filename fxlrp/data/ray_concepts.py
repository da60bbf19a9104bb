"""Score the channels of concepts on the actors of Ray, which get a copy of the explainer."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fxlrp.concepts.references import References
from fxlrp.concepts.scored import Scored
from fxlrp.data.local import device_of, scores_of
from fxlrp.data.samples import Samples


@dataclass(frozen=True)
class Scorer:
    """What an actor needs to score batches of a dataset.

    Args:
        references: References on the CPU, without samples.
        samples: The samples.
        batches: The samples of each batch, by its number.
        threads: The number of threads.
        device: The device on which the model runs.
    """

    references: References
    samples: Samples
    batches: Mapping[int, range]
    threads: int
    device: str

    def scored(self, number: int) -> Scored:
        """Read a batch and score the channels on it."""
        rows = self.batches[number]
        return scores_of(self.references, self.samples.read(rows), rows)


class ScoringActor:
    """The actor of Ray that scores batches."""

    def __init__(self, scorer: Any) -> None:
        """Move the model to its device.

        Args:
            scorer: A reference to the :class:`Scorer`.
        """
        import ray

        self._scorer: Scorer = ray.get(scorer)
        torch.set_num_threads(self._scorer.threads)
        self._scorer.references.explain.to(self._scorer.device)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Score the batch whose number is in a batch of one row."""
        number = int(batch["part"][0])
        return {"part": [number], "scores": [packed(self._scorer.scored(number))]}


def new_on_cpu(references: References) -> References:
    """Return references without samples on a copy of the explainer on the CPU, or on the explainer if it is there."""
    explain = references.explain
    if device_of(explain).type != "cpu":
        explain = copy.deepcopy(explain).to("cpu")
    return References(explain, **references.settings)


def packed(scored: Scored) -> bytes:
    """Return scores as bytes."""
    file = io.BytesIO()
    torch.save(vars(scored), file)
    return file.getvalue()


def unpacked(content: bytes) -> Scored:
    """Return the scores that :func:`packed` turned into bytes."""
    return Scored(**torch.load(io.BytesIO(content), weights_only=True))

"""How a dataset is divided: batches that are explained together, in parts that are written together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fxlrp.errors import InputError


@dataclass(frozen=True)
class Plan:
    """The parts of a dataset. They do not depend on where a run was interrupted, so neither do the results.

    Args:
        batch_size: The number of samples that are explained together.
        chunk_size: The number of samples in a chunk of the store.
        samples: The number of samples of the dataset; None where it is known only at the end.
    """

    batch_size: int
    chunk_size: int
    samples: int | None = None

    def __post_init__(self) -> None:
        """Check that every part has whole batches and whole chunks.

        Raises:
            InputError: It does not.
        """
        if max(self.batch_size, self.chunk_size) % min(self.batch_size, self.chunk_size):
            raise InputError(
                f"chunk_size={self.chunk_size} must be a multiple or a divisor of batch_size={self.batch_size}, so "
                "that a chunk is written once"
            )

    @property
    def per_part(self) -> int:
        """The number of samples of a part, except for the last."""
        return max(self.batch_size, self.chunk_size)

    def parts_of(self, samples: int) -> int:
        """The number of parts that a number of samples has."""
        return -(-samples // self.per_part)

    def rows(self, part: int) -> range:
        """The samples of a part."""
        stop = (part + 1) * self.per_part
        return range(part * self.per_part, stop if self.samples is None else min(stop, self.samples))

    def batches(self, part: int) -> Iterator[range]:
        """The samples of each batch of a part."""
        rows = self.rows(part)
        for start in range(rows.start, rows.stop, self.batch_size):
            yield range(start, min(start + self.batch_size, rows.stop))

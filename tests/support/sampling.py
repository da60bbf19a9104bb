"""Which cases of a test with many cases run, the same in every process: the marker ``sampled``."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Sequence


def kept_by_name(names: Sequence[str], count: int) -> list[bool]:
    """Keep about one in ``count`` cases, chosen by their names."""
    return [zlib.crc32(name.encode()) % count == 0 for name in names]


def kept_of_each(values: Sequence[Hashable], count: int) -> list[bool]:
    """Keep one in ``count`` cases of each value, and at least one; the second value starts with its second case."""
    groups: dict[Hashable, list[int]] = {}
    for index, value in enumerate(values):
        groups.setdefault(value, []).append(index)
    kept: set[int] = set()
    for turn, indices in enumerate(groups.values()):
        kept.update(indices[turn % min(count, len(indices)) :: count])
    return [index in kept for index in range(len(values))]

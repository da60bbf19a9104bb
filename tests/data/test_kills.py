"""A run that is killed at random loses nothing, writes nothing twice, and ends with the bits of an unbroken run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fxlrp
from dataset_runs import BATCH, Runs, Watched, Waves, files, moments, network, written

pytest.importorskip("zarr", reason="zarr is not installed")

CASES = [
    pytest.param(640, 3, id="640 samples"),
    pytest.param(20_000, 20, id="20000 samples", marks=pytest.mark.repeats),
]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "kills"), CASES)
def test_killed_at_random(count: int, kills: int, tmp_path: Path) -> None:
    runs, whole, broken = Runs(), tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    runs.unbroken(whole, Waves(count))
    parts = -(-count // BATCH)
    assert written(whole) == parts
    progress = [0]
    for more, seconds in moments(kills, parts, seed=count):
        progress.append(runs.killed(broken, Waves(count), more, seconds))
    print("parts after each kill:", progress[1:], "of", parts)
    # What was written is never lost, and the kills were in the middle.
    assert progress == sorted(progress) and progress[-2] < parts
    assert len({*progress}) > kills // 2
    runs.unbroken(broken, Waves(count))
    assert files(broken) == files(whole)
    # The relevance is that of a plain loop over the batches.
    results, explain, dataset = fxlrp.data.read(broken), fxlrp.compile(network()), Waves(count)
    for start in range(0, count, BATCH):
        batch = torch.stack([dataset[index] for index in range(start, min(start + BATCH, count))])
        assert torch.equal(torch.from_numpy(results.relevance[start : start + BATCH]), explain(batch))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2000, pytest.param(20_000, marks=pytest.mark.repeats)])
def test_memory_does_not_grow(count: int, tmp_path: Path) -> None:
    memory = Runs().unbroken(tmp_path / "x.zarr", Watched(count))
    print("memory in MB:", [each >> 20 for each in memory])
    # The relevance is 3 kB for each sample.
    assert max(memory[10:]) - max(memory[5:10]) < (2 << 20) + 3 * 1024 * count // 20

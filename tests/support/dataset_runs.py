"""Runs over a dataset in processes that can be killed."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import fxlrp

BATCH = 16
SIZE = 16


class Waves(Dataset[Tensor]):
    """Images that follow from their index."""

    def __init__(self, count: int, delay: float = 0.0) -> None:
        self.count, self.delay = count, delay
        self.steps = torch.arange(3 * SIZE * SIZE).reshape(3, SIZE, SIZE) / 100

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(self.delay)
        return (self.steps * (1 + index % 97) + index / 7).sin()


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 5))
    return nn.Sequential(*layers).eval()


def resident() -> int:
    """The memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Watched(Waves):
    """Notes the memory of the process now and then."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.memory = list[int]()

    def __getitem__(self, index: int) -> Tensor:
        if index % (self.count // 20) == 0:
            self.memory.append(resident())
        return super().__getitem__(index)


def _run_and_tell(out: Path, dataset: Waves, done: Connection) -> None:
    torch.set_num_threads(1)
    fxlrp.data.explain(fxlrp.compile(network()), dataset, out, batch_size=BATCH, progress=False)
    done.send(dataset.memory if isinstance(dataset, Watched) else None)


class Runs:
    """Starts runs in processes that have imported everything before they are needed."""

    def __init__(self) -> None:
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["dataset_runs", "fxlrp.data", "zarr"])

    def unbroken(self, out: Path, dataset: Waves) -> Any:
        """What a run that is not interrupted returns."""
        here, process = self._start(out, dataset)
        found = here.recv()
        process.join()
        assert process.exitcode == 0
        return found

    def killed(self, out: Path, dataset: Waves, parts: int, seconds: float) -> int:
        """Kill a run some time after it has written some parts, and return how many are written in all."""
        enough = written(out) + parts
        _, process = self._start(out, dataset)
        while written(out) < enough and process.is_alive():
            time.sleep(0.002)
        time.sleep(seconds)
        process.kill()
        process.join()
        return written(out)

    def _start(self, out: Path, dataset: Waves) -> tuple[Connection, Any]:
        here, there = self.context.Pipe()
        process = self.context.Process(target=_run_and_tell, args=(out, dataset, there))
        process.start()
        return here, process


def written(out: Path) -> int:
    """How many parts a store has."""
    import zarr

    return int(zarr.open_array(out / "done", mode="r")[:].sum()) if out.exists() else 0


def files(store: Path) -> dict[str, bytes]:
    """The files of a store with their content."""
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def moments(times: int, parts: int, seed: int) -> list[tuple[int, float]]:
    """When to kill: after how many more parts, and how many seconds later. All together are less than a whole run."""
    generator = random.Random(seed)
    return [(generator.randint(0, 3 * parts // (2 * times + 2)), generator.uniform(0, 0.02)) for _ in range(times)]

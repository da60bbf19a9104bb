"""Runs functions on several processes that form a group over gloo, each with one thread."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn


def on_ranks(ranks: int, function: Callable[[], Any]) -> list[Any]:
    """The results of a function of a module on every rank, in order."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_run, (ranks, function, folder), nprocs=ranks)
        return [torch.load(Path(folder, str(rank)), weights_only=False) for rank in range(ranks)]


def _run(rank: int, ranks: int, function: Callable[[], Any], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    try:
        torch.save(function(), Path(folder, str(rank)))
    finally:
        distributed.destroy_process_group()

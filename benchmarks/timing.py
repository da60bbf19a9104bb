"""Interleaved timing: the machine's good and bad moments fall on every contestant alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def seconds(call: Callable[[], Any], device: str = "cpu") -> float:
    """How long one call takes, on CUDA by the device's own clock."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def interleaved(calls: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """The seconds of each call in each of ``repeats`` rounds; a round runs every call once."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call, device))
    return times

"""Errors and latencies of an explanation in a runtime, beside eager PyTorch and beside the model alone."""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

import fxlrp
from benchmarks import models, token_models
from benchmarks.settings import Settings
from fxlrp.extras import require

NETWORKS = ("resnet50", "vit_b_16", "bert", "efficientnet_b0", "convnext_tiny")
RUNTIMES = ("onnx", "aoti")
BATCHES = (1, 8)
# The file is written for other sizes than those that are measured.
WRITTEN_BATCH, WRITTEN_LENGTH, LENGTH = 2, 16, 48
SIDE = 224


@dataclass(frozen=True)
class Measured:
    """What was measured for one model, runtime and batch size.

    Args:
        model: The name of the model.
        runtime: The format of the file.
        batch: The number of samples.
        error: The largest difference from the relevance in double precision, over the largest relevance.
        eager_error: That of the explainer in single precision.
        seconds: The time of a call of the file.
        eager_seconds: The time of a call of the explainer.
        model_seconds: The time of the model alone.
    """

    model: str
    runtime: str
    batch: int
    error: float
    eager_error: float
    seconds: float
    eager_seconds: float
    model_seconds: float


@dataclass(frozen=True)
class Subject:
    """A model with inputs of any batch size.

    Args:
        model: The model, in single precision.
        rules: The preset.
        inputs: Inputs for a batch size and a length, which images ignore.
        dynamic_shapes: The open sizes of a file beside the batch.
    """

    model: nn.Module
    rules: str
    inputs: Callable[[int, int], dict[str, Tensor]]
    dynamic_shapes: Mapping[str, Any]


def subject(name: str, size: int = SIDE) -> Subject:
    """The model of a name, with random weights and inputs."""
    if name == "bert":
        return _encoder()
    settings = Settings()
    model = models.build(name, size, settings)
    first = "input" if name == "tiny" else "x"
    return Subject(model, "default", lambda batch, length: {first: models.images(batch, size, settings)}, {})


def _encoder() -> Subject:
    """A classifier of sentences in the style of BERT, with a padding mask."""
    settings = Settings()
    model = token_models.build("encoder", WRITTEN_BATCH, WRITTEN_LENGTH, settings).model

    def inputs(batch: int, length: int) -> dict[str, Tensor]:
        return dict(zip(("ids", "keep"), token_models.build("encoder", batch, length, settings).inputs, strict=True))

    length = Dim("length", min=2, max=512)
    return Subject(model, "attnlrp", inputs, {"ids": {1: length}, "keep": {1: length}})


def measure(
    name: str, of: Subject, runtime: Any, folder: Path, batches: tuple[int, ...], rounds: int
) -> list[Measured]:
    """Write the file of a runtime, and compare its results and times with eager ones."""
    written = of.inputs(WRITTEN_BATCH, WRITTEN_LENGTH)
    explain = fxlrp.compile(of.model, of.rules, example_inputs=written)
    wide = fxlrp.compile(copy.deepcopy(of.model).double(), of.rules, example_inputs=_wide(written))
    path = folder / f"{name}.{'onnx' if runtime == 'onnx' else 'pt2'}"
    explain.export(path, written, format=runtime, dynamic_shapes=of.dynamic_shapes)
    run, found = loaded(runtime, path), []
    for batch in batches:
        inputs = of.inputs(batch, LENGTH)
        target = torch.arange(batch) % 8
        calls: dict[str, Callable[[], Any]] = {
            "file": functools.partial(run, {**inputs, "target": target}),
            "eager": functools.partial(explain, **inputs, target=target),
            "model": functools.partial(of.model, **inputs),
        }
        exact = _relevance(wide(**_wide(inputs), target=target))
        errors = [_error(_relevance(calls[each]()), exact) for each in ("file", "eager")]
        seconds = timed(calls, rounds)
        found.append(Measured(name, runtime, batch, *errors, *(seconds[each] for each in calls)))
    return found


def loaded(runtime: str, path: Path) -> Callable[[Mapping[str, Tensor]], Any]:
    """A file as a function of its inputs, by name and in order, with one thread for ONNX Runtime."""
    if runtime == "aoti":
        package = torch._inductor.aoti_load_package(str(path))
        return lambda inputs: package(*inputs.values())
    onnxruntime = require("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        first, *_ = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return torch.from_numpy(first)

    return run


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median time of the processor for each call, interleaved; other processes do not add to it."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for _ in range(rounds):
            for name, call in calls.items():
                start = time.process_time()
                call()
                times[name].append(time.process_time() - start)
    return {name: median(each) for name, each in times.items()}


def _wide(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def _relevance(returned: Any) -> Tensor:
    """The relevance of the first input."""
    if isinstance(returned, dict):
        returned = tuple(returned.values())
    first: Tensor = returned[0] if isinstance(returned, tuple | list) else returned
    return first


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).abs().max() / exact.abs().max())

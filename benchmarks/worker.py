"""Measures the cases of one model in a process of its own and appends a record of each to a file.

``python -m benchmarks.worker JOB OUTPUT``, where JOB is JSON as ``__main__`` writes it.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache

import fxlrp
from benchmarks import checks, lengths, models, token_models
from benchmarks.explainers import RECIPES, Explain, Subject, build, recipe_of, reference, rules
from benchmarks.memory import peak_bytes
from benchmarks.peers import NotOffered
from benchmarks.plan import LENGTHS, Case
from benchmarks.settings import Settings
from benchmarks.timing import interleaved, seconds
from benchmarks.where import describe


def measure(case: Case, model: nn.Module, settings: Settings) -> dict[str, Any]:
    """The record of one case."""
    torch.compiler.reset()  # else sizes that differ from the last case's would count as dynamic
    subject = Subject(model, models.images(case.batch, case.size, settings), case.preset or "")
    record: dict[str, Any] = {"case": asdict(case), "settings": asdict(settings)}
    expected = None
    if case.preset is None:
        expected = build("gradient", subject)()
    else:
        try:
            expected = reference(subject)
            record["rounding"] = checks.rounding(subject, expected)
            record["float64"] = checks.optimized_in_float64(subject)
            record["compile_seconds"] = [_compile_seconds(subject) for _ in range(settings.repeats)]
        except Exception as error:
            # Without it there is nothing to compare with, and the others explain models of their own choosing.
            ours = [name for name in case.contestants if name.startswith("fxlrp")]
            record["entries"] = {name: {"failure": reason(error)} for name in ours}
            return record
    record["entries"] = _contest(case, lambda name: build(name, subject), expected, settings, settings.repeats)
    return record


def measure_length(case: Case, settings: Settings) -> dict[str, Any]:
    """The record of a case of :mod:`benchmarks.lengths`."""
    record: dict[str, Any] = {"case": asdict(case), "settings": asdict(settings)}
    sequence, preset = token_models.build(case.model, case.batch, case.size, settings), case.preset or ""
    rounds = lengths.rounds(case.size, settings.repeats)
    if case.series == "capture":
        record["capture_seconds"] = lengths.capture_seconds(sequence, preset, rounds)
    expected = lengths.reference(sequence, preset) if case.contestants else None
    contestants = lengths.CONTESTANTS
    record["entries"] = _contest(case, lambda name: contestants[name](sequence, preset), expected, settings, rounds)
    return record


def _contest(
    case: Case, make: Callable[[str], Explain], expected: Tensor | None, settings: Settings, rounds: int
) -> dict[str, Any]:
    """What each contestant took, or why it did not run."""
    entries: dict[str, dict[str, Any]] = {}
    running: dict[str, Explain] = {}
    for name in case.contestants:
        entry = entries[name] = {}
        try:
            explain = make(name)
            recipe = recipe_of(name)
            if recipe is not None:
                entry["first_call"] = _first_call(explain, recipe, settings)
            entry["peak"], result = peak_bytes(explain, settings.device)
        except Exception as error:  # of whatever kind: it goes into the table
            entry["failure"] = reason(error)
            entry["not_offered"] = isinstance(error, NotOffered)
            continue
        running[name] = explain
        if expected is not None and name != "gradient":
            entry["difference"] = checks.difference(result, expected)
        del result
    for name, times in interleaved(running, rounds, settings.device).items():
        entries[name]["seconds"] = times
    return entries


def _first_call(explain: Explain, recipe: str, settings: Settings) -> float:
    """The seconds of the call that compiles, without the kernels that an earlier contestant needed too."""
    _start_compiler(recipe, settings.device)
    with fresh_cache():
        return seconds(explain, settings.device)


@cache
def _start_compiler(recipe: str, device: str) -> None:
    """Let the compiler do what it does once: its first kernel, however small, takes many seconds."""
    torch.compile(torch.sin, **RECIPES[recipe])(torch.ones(8, device=device))


def _compile_seconds(subject: Subject) -> float:
    start = time.perf_counter()
    fxlrp.compile(subject.model, rules=rules(subject))
    return time.perf_counter() - start


def reason(error: Exception) -> str:
    """An error in a few words, without the paths of this machine."""
    if isinstance(error, NotOffered):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    text = " ".join(str(error).split())
    text = re.sub(r"(?<![\w.])/[^\s:,']+/", "", text)
    words = f"{type(error).__name__}: {text}"
    return words if len(words) <= 160 else f"{words[:160].rsplit(' ', 1)[0]} …"


def main() -> None:
    """Measure a job."""
    job, output = json.loads(sys.argv[1]), Path(sys.argv[2])
    settings = Settings(**job["settings"])
    settings.apply()
    warnings.simplefilter("ignore")  # peers warn of each of their choices at every call

    @cache
    def model(name: str, size: int) -> nn.Module:
        return models.build(name, size, settings)

    with output.open("a") as file:
        file.write(json.dumps({"where": describe(settings)}) + "\n")
        for fields in job["cases"]:
            case = Case(**{**fields, "contestants": tuple(fields["contestants"])})
            start = time.perf_counter()
            if case.series in LENGTHS:
                record = measure_length(case, settings)
            else:
                record = measure(case, model(case.model, case.size), settings)
            gc.collect()
            file.write(json.dumps(record) + "\n")
            file.flush()
            what = f"{case.model}, {case.preset or 'gradients'}, batch {case.batch}, {case.size} {case.unit}"
            print(f"{what}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()

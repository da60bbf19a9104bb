"""Measures a cell: makes the data, trains the network or loads it, and scores every method."""

from __future__ import annotations

import time
import warnings
import zlib
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.evidence import metrics, networks, training
from benchmarks.evidence.methods import Method, NotApplicable, Subject, of_half
from benchmarks.evidence.plan import Cell, Plan
from benchmarks.evidence.problems import PROBLEMS
from benchmarks.evidence.samples import Problem, Samples
from benchmarks.worker import reason


@cache
def samples(name: str, seed: int, count: int) -> Samples:
    """The samples of a problem for a seed, those for training, validation and tests one after the other."""
    return PROBLEMS[name].make(count, generator(name, seed))


def generator(name: str, seed: int) -> torch.Generator:
    """Random numbers for a purpose and a seed."""
    return torch.Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))


def measure(cell: Cell, plan: Plan, cache_folder: Path) -> dict[str, Any]:
    """The record of a cell. Methods explain the network if it is right often enough on the test samples."""
    problem = PROBLEMS[cell.problem]
    everything = samples(cell.problem, cell.seed, plan.samples)
    end = plan.samples - plan.tested
    test = everything[end:]
    start = time.perf_counter()
    network, steps = trained(cell, plan, problem, everything[:end], cache_folder)
    right = training.right(network, test)
    record: dict[str, Any] = {
        "cell": cell.fields,
        "accuracy": right.double().mean().item(),
        "threshold": problem.threshold if plan.threshold is None else plan.threshold,
        "steps": steps,
        "training_seconds": time.perf_counter() - start,
    }
    if record["accuracy"] >= record["threshold"]:
        chosen = test[right.nonzero()[: plan.explained, 0]]
        record["explained"] = len(chosen)
        record["methods"] = scores(cell, problem, network, chosen, plan.methods)
    record["seconds"] = time.perf_counter() - start
    return record


def trained(cell: Cell, plan: Plan, problem: Problem, data: Samples, folder: Path) -> tuple[nn.Module, int]:
    """The network of a cell, from the cache if it is there, and for how many steps it was trained."""
    torch.manual_seed(zlib.crc32(cell.name.encode()))
    network = networks.build(cell.network, problem, data.inputs)
    file = folder / f"{cell.name}.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        network.load_state_dict(saved["state"])
        return network.eval(), saved["steps"]
    end = len(data) - plan.validation
    steps = problem.steps if plan.steps is None else plan.steps
    done = training.train(network, data[:end], data[end:], steps, problem.good, generator(cell.name, 0))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state": network.state_dict(), "steps": done}, file)
    return network, done


def scores(
    cell: Cell, problem: Problem, network: nn.Module, chosen: Samples, only: tuple[str, ...] | None
) -> dict[str, dict[str, Any]]:
    """What each method scores, or why it does not run."""
    explained, inputs = networks.explained(network, chosen.inputs)
    shape = "x".join(map(str, inputs[0].shape[1:]))
    architecture = f"{problem.kind} {cell.network} {shape} {problem.classes}"
    if any(isinstance(module, nn.LSTM) for module in network.modules()):
        architecture += f" {cell.name}"  # explain.on does not take an LSTM with other weights
    subject = Subject(explained, inputs, chosen.labels, problem.kind, architecture, problem.bounds, cell.seed)
    methods = [method for method in of_half(problem.half) if only is None or method.name in only]
    return {method.name: _scores(method, subject, problem, chosen) for method in methods}


def _scores(method: Method, subject: Subject, problem: Problem, chosen: Samples) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            relevance = method.explain(subject).detach()
    except NotApplicable as error:
        return {"reason": str(error)}
    except Exception as error:  # of whatever kind: it goes into the table
        return {"reason": reason(error)}
    return {
        pooling: asdict(metrics.score(relevance, chosen.masks, problem.kind, pooling, method.is_gradient))
        for pooling in metrics.POOLINGS
    }

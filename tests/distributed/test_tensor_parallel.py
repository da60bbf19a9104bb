"""Explanations of models on two and four ranks, against those of the same models on one device."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

import tensor_parallel
from devices import on_ranks
from helpers import ROOT
from tensor_parallel import LAYERS, PRESETS, Report

PARTS: dict[str, Callable[[], dict[str, Report]]] = {
    "blocks": tensor_parallel.report_blocks,
    "language model": tensor_parallel.report_language_models,
    "DTensor": tensor_parallel.report_dtensor_inputs,
    "images": tensor_parallel.report_images,
    "sharded": tensor_parallel.report_sharded,
}
RANKS = (2, pytest.param(4, marks=pytest.mark.slow))


def everything() -> tuple[dict[str, Report], dict[str, str]]:
    found = {f"{part}: {name}": report for part, run in PARTS.items() for name, report in run().items()}
    return found, tensor_parallel.report_errors()


@functools.cache
def on_two() -> list[tuple[dict[str, Report], dict[str, str]]]:
    """Starting processes takes most of the time, so one start serves all tests."""
    found: list[tuple[dict[str, Report], dict[str, str]]] = on_ranks(2, everything)
    return found


def reports() -> dict[str, Report]:
    return on_two()[0][0]


@functools.cache
def blocks(ranks: int) -> list[dict[str, Report]]:
    if ranks > 2:
        return on_ranks(ranks, tensor_parallel.report_blocks)
    return [{name.removeprefix("blocks: "): each for name, each in of_one.items()} for of_one, _ in on_two()]


def test_all_relevance_is_that_of_one_device() -> None:
    assert len(on_two()) == 2 and len(reports()) == 22
    for of_one, _ in on_two():
        differences = {name: report.difference for name, report in of_one.items()}
        assert max(differences.values()) < 1e-6, differences


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_blocks_take_the_collectives_of_forward_and_backward(preset: str, ranks: int) -> None:
    """Megatron's plan: two in the forward and two in the backward of a layer."""
    assert len(blocks(ranks)) == ranks
    for of_one in blocks(ranks):
        separate, prepared = (of_one[f"{name} {preset}"] for name in ("separate", "prepared"))
        assert max(separate.difference, prepared.difference) < 1e-6
        assert separate.collectives == prepared.collectives == {"all_reduce": 4 * LAYERS}
        # Autograd reduces the gradient of each projection by itself, if each makes its own DTensor of the input.
        assert prepared.of_gradient == {"all_reduce": 4 * LAYERS}
        assert separate.of_gradient == {"all_reduce": 7 * LAYERS}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_divided_sequence_is_gathered_and_scattered(preset: str) -> None:
    """Between the modules of the two layers, positions are divided: an all-reduce becomes its two halves."""
    assert reports()[f"language model: sequence {preset}"].collectives == {
        "reduce_scatter_tensor": 4 * 2 + 2,  # after the embedding, and the relevance of the head's input
        "all_gather_into_tensor": 4 * 2 + 3,  # before the head, behind it, and the relevance of the embedding
    }


def test_inputs_that_are_dtensors_have_such_relevance() -> None:
    for name, report in reports().items():
        assert report.is_dtensor == name.startswith(("DTensor", "images")), name


def test_a_divided_batch_gathers_little() -> None:
    """Every sample is on one device: only what the target selects is gathered."""
    for name, report in reports().items():
        if " batch " in name or name.startswith("images"):
            assert set(report.collectives) == {"all_gather_into_tensor"}, name
            assert report.collectives["all_gather_into_tensor"] <= 3, name


@pytest.mark.parametrize("preset", PRESETS)
def test_sharded_parameters_are_gathered_for_the_forward_and_for_the_relevance(preset: str) -> None:
    parameters = len(list(tensor_parallel.Blocks(2).parameters()))
    (kind,) = (collectives := reports()[f"sharded: {preset}"].collectives)
    assert kind == "all_gather_into_tensor" and parameters <= collectives[kind] <= 2 * parameters


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("parallelized afterwards", "InputError: .* compile it again"),
        ("relative to other elements", r"RuleError: RelativeEpsilon\(.*\) for the node .* on other devices"),
        ("channels of a part", "InputError: only= counts the channels of a whole value"),
        ("mixed precision", "CaptureError: fully_shard with a MixedPrecisionPolicy is not supported: cast the model"),
        ("unlike placement", r"CaptureError: the placement .*avg.* is not supported: use Shard"),
        ("another mesh", "CaptureError: .* on which the model has no parameter: parallelize it there"),
    ],
)
def test_what_is_not_supported_is_an_error(name: str, words: str) -> None:
    for _, errors in on_two():
        assert re.match(words, errors[name], re.DOTALL), errors[name]


def test_the_example_prints_what_the_documentation_shows() -> None:
    page = (ROOT / "docs" / "several-devices.md").read_text()
    (shown,) = re.findall(r"```console\n\$ torchrun (.*?)\n(.*?)```", page, re.DOTALL)
    command = [sys.executable, "-m", "torch.distributed.run", *shown[0].split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown[1]

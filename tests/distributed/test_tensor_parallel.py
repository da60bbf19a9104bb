"""Explanations of models on two and four ranks, against those of the same models on one device."""

from __future__ import annotations

import functools

import pytest

import tensor_parallel
from devices import on_ranks
from tensor_parallel import LAYERS, PRESETS, Report


@functools.cache
def reports(ranks: int) -> list[dict[str, Report]]:
    return on_ranks(ranks, everything)


def everything() -> dict[str, Report]:
    return {f"{part}: {name}": report for part, run in PARTS.items() for name, report in run().items()}


PARTS = {
    "blocks": tensor_parallel.report_blocks,
    "language model": tensor_parallel.report_language_models,
    "DTensor": tensor_parallel.report_dtensor_inputs,
    "images": tensor_parallel.report_images,
}
RANKS = (2, pytest.param(4, marks=pytest.mark.slow))


@pytest.mark.parametrize("ranks", RANKS)
def test_all_relevance_is_that_of_one_device(ranks: int) -> None:
    of_all = reports(ranks)
    assert len(of_all) == ranks and len(of_all[0]) == 28
    differences = {name: report.difference for name, report in of_all[0].items()}
    assert max(differences.values()) < 1e-6, differences
    assert all(report == of_all[0][name] for other in of_all for name, report in other.items())


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_blocks_take_the_collectives_of_forward_and_backward(preset: str, ranks: int) -> None:
    """Megatron's plan: two in the forward and two in the backward of a layer."""
    of_one = reports(ranks)[0]
    separate, prepared = (of_one[f"blocks: {name} {preset}"] for name in ("separate", "prepared"))
    assert separate.collectives == prepared.collectives == {"all_reduce": 4 * LAYERS}
    # Autograd reduces the gradient of each projection by itself, if each makes its own DTensor of the input.
    assert prepared.of_gradient == {"all_reduce": 4 * LAYERS} and separate.of_gradient == {"all_reduce": 7 * LAYERS}


@pytest.mark.parametrize("ranks", RANKS)
def test_inputs_that_are_dtensors_have_such_relevance(ranks: int) -> None:
    of_one = reports(ranks)[0]
    for name, report in of_one.items():
        assert report.is_dtensor == name.startswith(("DTensor", "images")), name


@pytest.mark.parametrize("ranks", RANKS)
def test_a_divided_batch_gathers_little(ranks: int) -> None:
    """Every sample is on one device: only what the target selects is gathered."""
    of_one = reports(ranks)[0]
    for name, report in of_one.items():
        if "batch" in name or name.startswith("images"):
            assert set(report.collectives) <= {"all_gather_into_tensor"}, name
            assert report.collectives.get("all_gather_into_tensor", 0) <= 3, name

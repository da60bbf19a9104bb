"""The example that compares explanations of the network of the demo by pixel flipping."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from fxlrp.demo.digits import load_digits, train
from helpers import ROOT


@pytest.mark.slow
def test_explanations_of_a_trained_network_are_better_than_chance(tmp_path: Path) -> None:
    digits = load_digits()
    model = train(digits, epochs=3, progress=False)
    example = runpy.run_path(str(ROOT / "examples" / "evaluation.py"))
    result = example["evaluated"](model, digits, count=100)
    by_chance = result["random"].srg.mean()
    for name, curves in result.curves.items():
        if name != "random":
            assert curves.srg.mean() > by_chance + 1
    # In networks of ReLUs LRP-0 is gradient x input, also with biases.
    torch.testing.assert_close(
        result["epsilon"].srg.mean(), result["gradient x input"].srg.mean(), rtol=0.02, atol=0.02
    )
    result.picture().save(tmp_path / "evaluation.png")

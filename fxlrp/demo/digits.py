"""Handwritten digits, a small residual network for them, and its training."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxlrp.extras import require

__all__ = ["DigitNet", "Digits", "accuracy", "load_digits", "train", "trained"]

EPOCHS = 10
BATCH_SIZE = 64
SEED = 0


class Digits(NamedTuple):
    """Images of shape (N, 1, 8, 8) with values in [0, 1], and their labels of shape (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The 1797 handwritten digits that ship inside scikit-learn, a fifth of them held out for testing."""
    bunch = require("sklearn.datasets", "demo").load_digits()
    split = require("sklearn.model_selection", "demo").train_test_split
    images = torch.as_tensor(bunch.images, dtype=torch.float32).div(16).unsqueeze(1)
    labels = torch.as_tensor(bunch.target, dtype=torch.long)
    train_rows, test_rows = split(range(len(labels)), test_size=0.2, stratify=bunch.target, random_state=SEED)
    return Digits(images[train_rows], labels[train_rows], images[test_rows], labels[test_rows])


class ResidualBlock(nn.Module):
    """Two convolutions with BatchNorm and a skip connection."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.skip = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.skip(x)
        activated: Tensor = self.relu(out)
        return activated


class DigitNet(nn.Module):
    """A residual network for 8 x 8 images: a stem, three residual blocks, average pooling, a linear head."""

    def __init__(self) -> None:
        """Create the layers, with random weights."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.layer1 = ResidualBlock(16, 16)
        self.layer2 = ResidualBlock(16, 32, stride=2)
        self.layer3 = ResidualBlock(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 1, 8, 8)`` to ten logits for each image."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        logits: Tensor = self.head(self.pool(x).flatten(1))
        return logits


def train(digits: Digits, *, epochs: int = EPOCHS, progress: bool = True) -> DigitNet:
    """Train a `DigitNet`, reproducibly and without changing the random state of the caller."""
    tqdm = require("tqdm", "demo").tqdm
    images, labels = digits.train_images, digits.train_labels
    steps = epochs * -(-len(labels) // BATCH_SIZE)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(SEED)
        model = DigitNet().train()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
        # Show a progress bar only in a terminal.
        bar = tqdm(total=steps, desc="training", unit="step", disable=None if progress else True)
        for _ in range(epochs):
            for rows in torch.randperm(len(labels)).split(BATCH_SIZE):
                loss = F.cross_entropy(model(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
        bar.close()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of `images` that `model` classifies as their label."""
    return float((model(images).argmax(1) == labels).float().mean())


def cache_directory() -> Path:
    """The cache directory of the user's platform."""
    if os.environ.get("XDG_CACHE_HOME"):
        root = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path.home() / ".cache"
    return root / "fxlrp"


def trained(
    digits: Digits,
    *,
    epochs: int = EPOCHS,
    cache: Path | None = None,
    retrain: bool = False,
    progress: bool = True,
) -> tuple[DigitNet, Path | None]:
    """Return a trained network, and the file in `cache` from which it was loaded, or None if it was trained now.

    The name of the file contains a hash of this module, so that weights of another version are never used.
    """
    recipe = f"{inspect.getsource(sys.modules[__name__])}\n{epochs}\n{torch.__version__}"
    key = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    path = (cache or cache_directory()) / f"digits-{key}.pt"
    if not retrain:
        model = _load(path)
        if model is not None:
            return model, path
    model = train(digits, epochs=epochs, progress=progress)
    _save(model, path)
    return model, None


def _load(path: Path) -> DigitNet | None:
    """Load the network stored at `path`; return None if the file does not exist or is damaged."""
    model = DigitNet()
    try:
        model.load_state_dict(torch.load(path, weights_only=True))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
        return None
    return model.eval()


def _save(model: DigitNet, path: Path) -> None:
    """Store the weights atomically: another process sees the whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            torch.save(model.state_dict(), file)
        os.replace(file.name, path)
    except OSError as error:
        print(f"The trained weights could not be saved to {path}: {error}", file=sys.stderr)

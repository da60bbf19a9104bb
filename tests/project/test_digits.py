"""The digits, their network, and the examples that draw pictures of it and of classifiers of photographs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from matplotlib import image as matplotlib_image

from fxlrp.demo import digits as digits_module
from fxlrp.demo.digits import DigitNet, Digits, accuracy, load_digits, train, trained
from fxlrp.extras import import_torchvision
from helpers import ROOT

EPOCHS = 3
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(digits: Digits, cache: Path) -> DigitNet:
    return trained(digits, epochs=EPOCHS, cache=cache / "fxlrp", progress=False)[0]


@pytest.fixture
def home(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and the cache of this module for the demo's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_png(path: Path) -> torch.Tensor:
    return torch.as_tensor(matplotlib_image.imread(path))[..., :3]


def test_digits_are_split_without_overlap(digits: Digits) -> None:
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    for images in (digits.train_images, digits.test_images):
        assert images.min() == 0 and images.max() == 1
    counts = digits.test_labels.bincount(minlength=10)
    assert counts.min() >= 34 and counts.max() <= 38  # a fifth of every class
    train_rows = {tuple(image.flatten().tolist()) for image in digits.train_images}
    assert not any(tuple(image.flatten().tolist()) in train_rows for image in digits.test_images)


def test_training_generalises_and_is_reproducible(digits: Digits, model: DigitNet) -> None:
    assert not model.training
    assert accuracy(model, digits.test_images, digits.test_labels) >= 0.9
    state = torch.get_rng_state()
    again = train(digits, epochs=EPOCHS, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_cache_is_used_renewed_and_never_trusted_blindly(
    digits: Digits, model: DigitNet, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = cache / "fxlrp"

    def untrained(*_: Any, epochs: int, **__: Any) -> DigitNet:
        return DigitNet().eval()

    monkeypatch.setattr(digits_module, "train", untrained)
    loaded, path = trained(digits, epochs=EPOCHS, cache=directory, progress=False)
    assert path is not None and path.parent == directory
    assert torch.equal(loaded.head.weight, model.head.weight)
    kept = path.read_bytes()

    assert trained(digits, epochs=EPOCHS + 1, cache=directory)[1] is None  # another recipe, another file
    assert path.read_bytes() == kept

    path.write_bytes(kept[: len(kept) // 2])  # an interrupted copy
    assert trained(digits, epochs=EPOCHS, cache=directory)[1] is None
    assert trained(digits, epochs=EPOCHS, cache=directory)[1] == path
    assert trained(digits, epochs=EPOCHS, cache=directory, retrain=True)[1] is None

    path.write_bytes(kept)
    assert not list(directory.glob("*.tmp"))


def test_cache_that_cannot_be_written_is_no_obstacle(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits_module, "train", lambda *_, **__: DigitNet().eval())
    (tmp_path / "file").write_text("not a directory")
    assert trained(digits, cache=tmp_path / "file")[1] is None
    assert "could not be saved" in capsys.readouterr().err


def load_example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_example(
    model: DigitNet, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits_module, "trained", lambda _: (model, None))
    load_example("digits")
    output = capsys.readouterr().out
    assert "Gamma(gamma=0.1)" in output and "Gamma(gamma=0.25)" in output
    assert output.count("relevance at the pixels") == 8
    assert (home / "digits.png").stat().st_size > 10_000


def test_concepts_example(
    model: DigitNet, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits_module, "trained", lambda _: (model, None))
    load_example("concepts")
    assert capsys.readouterr().out.count("most relevant for the digits") == 4
    assert (home / "concepts.png").stat().st_size > 10_000


@pytest.fixture
def photo(home: Path) -> Path:
    """A photo that ships inside scikit-learn."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image("flower.jpg")).save(home / "flower.png")
    return home / "flower.png"


def imagenet(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["imagenet.py", *map(str, arguments)])
    load_example("imagenet").main()


@pytest.fixture
def no_network(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(home))


@pytest.mark.usefixtures("no_network")
def test_imagenet_example_with_random_weights(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imagenet(monkeypatch, photo, "--model", "resnet18", "--size", "64", "--random-weights")
    output, errors = capsys.readouterr()
    assert "no network" in errors and "RANDOM WEIGHTS" in errors
    assert "layer4.1.conv2" in output
    assert read_png(photo.parent / "flower_resnet18.png").shape[0] > 100


@pytest.mark.usefixtures("no_network")
def test_imagenet_example_without_weights_says_what_to_do(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="--random-weights"):
        imagenet(monkeypatch, photo, "--model", "resnet18")
    assert not (photo.parent / "flower_resnet18.png").exists()


@pytest.mark.usefixtures("no_network")
def test_imagenet_example_with_weights_from_a_file(
    photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = import_torchvision().models.resnet18(weights=None).eval()
    with torch.no_grad():
        model.fc.bias[123] = 1000.0
    torch.save(model.state_dict(), photo.parent / "weights.pt")
    weights = photo.parent / "weights.pt"
    imagenet(monkeypatch, photo, "--model", "resnet18", "--size", "64", "--weights", weights)
    output = capsys.readouterr().out
    logit = re.search(r"class 123: logit (\d+\.\d+)", output)
    assert logit is not None and float(logit[1]) == pytest.approx(1000, abs=100)
    assert (photo.parent / "flower_resnet18.png").exists()

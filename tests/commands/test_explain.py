"""``fxlrp explain`` as a user calls it: what it prints and writes, with models of the user."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from command_models import MODULE, enter
from fxlrp.__main__ import main
from fxlrp.commands.images import default_image
from fxlrp.commands.progress import Progress
from fxlrp.commands.subject import Normalization
from fxlrp.extras import import_torchvision

LRP_0 = ["--rules", "epsilon", "--parameters", "epsilon=0"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch)


def status(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as done:
        assert isinstance(done.code, int)
        return done.code
    return 0


def summary(folder: Path) -> list[dict[str, str]]:
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def of_user(name: str) -> Any:
    return getattr(sys.modules[MODULE], name)()


def test_a_folder_of_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("explain", "images", "--model", f"{MODULE}:plain", "--out", "out", *LRP_0) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and "3 of 3 explained, in out" in printed.out
    rows = summary(folder / "out")
    assert [row["input"] for row in rows] == ["images/cat.png", "images/dog.jpg", "images/pets/cat.png"]
    assert [row["written"] for row in rows] == ["out/cat.png", "out/dog.png", "out/pets_cat.png"]
    from PIL import Image

    transforms = import_torchvision().transforms
    prepare = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    model = of_user("plain")
    for row in rows:
        with Image.open(folder / row["written"]) as picture:
            assert picture.width > 3 * 250 and picture.height > 250
        with Image.open(row["input"]) as image:
            output = model(prepare(image)[None])[0]
        assert row["index"] == row["class"] == str(int(output.argmax()))
        assert float(row["score"]) == pytest.approx(float(output.max()), rel=1e-4)
        # Without biases and with LRP-0, all of the output arrives at the pixels.
        assert float(row["at the input"]) == pytest.approx(float(output.max()), rel=1e-3)
        assert row["stayed at"] == row["problem"] == ""


def test_an_input_that_the_function_prepares(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("explain", "images/cat.png", "--model", f"{MODULE}:digits", "--target", "one", *LRP_0) == 0
    (row,) = summary(folder / "explanations")
    from PIL import Image

    model, prepare, _ = of_user("digits")
    with Image.open("images/cat.png") as image:
        output = model(prepare(image)[None])[0]
    assert (row["index"], row["class"]) == ("1", "one")
    assert float(row["score"]) == pytest.approx(float(output[1]), rel=1e-4)
    assert row["written"] == "explanations/cat.png" and Path(row["written"]).stat().st_size > 1000
    assert "the weights of the function, rules epsilon, on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "index"), [("0", 0), ("-1", 2), ("ZERO", 0), ("one", 1), ("half", 2), ("one and a half", 2)]
)
def test_targets(folder: Path, target: str, index: int) -> None:
    call = ["explain", "images/dog.jpg", "--model", f"{MODULE}:digits", "--no-balance", "--target", target]
    assert status(*call) == 0
    assert summary(folder / "explanations")[0]["index"] == str(index)


def test_what_stays_at_operations(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A large stabilizer absorbs a known share: x / (x + 0.5) of an output x arrives behind the last layer."""
    call = ["explain", "a fine film", "--model", f"{MODULE}:words", "--rules", "rules.json", "--target", "good"]
    assert status(*call) == 0
    (row,) = summary(folder / "explanations")
    score, kept = float(row["score"]), [each.split() for each in row["stayed at"].split(", ")]
    amounts = {name: float(amount) for amount, name in kept}
    assert amounts["linear"] == pytest.approx(score - score * abs(score) / (abs(score) + 0.5), rel=0.02)
    total = float(row["at the input"]) + sum(amounts.values())
    assert total == pytest.approx(score, rel=0.02)


@pytest.mark.parametrize("batch", ["1", "2", "8"])
def test_batches_give_the_same(folder: Path, batch: str) -> None:
    assert status("explain", "images", "--model", f"{MODULE}:plain", "--batch", batch, "--no-balance", *LRP_0) == 0
    rows = summary(folder / "explanations")
    assert all(float(row["score"]) == pytest.approx(float(row["at the input"]), rel=1e-3) for row in rows)
    assert len({row["score"] for row in rows}) == 3


def test_files_that_cannot_be_read_are_named_and_the_others_done(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("explain", "no_image.png", "images/cat.png", "--model", f"{MODULE}:plain") == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("fxlrp: not explained: no_image.png: it is not an image that pillow can read")
    assert "1 of 2 explained" in printed.out
    first, second = summary(folder / "explanations")
    assert first["problem"] and not first["written"] and second["written"] and not second["problem"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fails", f"the function that {MODULE}:fails returned: ZeroDivisionError: division by zero, at"),
        ("no_tensor", "the function that prepares images must return a tensor (C, H, W), not str"),
    ],
)
def test_a_function_that_fails_on_an_image(
    folder: Path, function: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("explain", "images/cat.png", "--model", f"{MODULE}:{function}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_texts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The relevance of a token is its embedding times the weights of the class, over the number of tokens."""
    assert status("explain", "texts.txt", "no", "--model", f"{MODULE}:words", "--target", "1", *LRP_0) == 0
    printed = capsys.readouterr().out
    model, _, _ = of_user("words")
    for text in ("a fine film", "not good", "no"):
        assert f"\n{text}\ngood: " in printed
        tokens = text.split()
        for token in tokens:
            share = model.table.weight[len(token)] @ model.head.weight[1] / len(tokens)
            shown = re.search(rf"^{token} +([-+0-9.e]+) ", printed.partition(f"\n{text}\n")[2], re.MULTILINE)
            assert shown and float(shown[1]) == pytest.approx(float(share), rel=0.01)
    rows = summary(folder / "explanations")
    assert [row["written"] for row in rows] == [f"explanations/text-{number}.html" for number in (1, 2, 3)]
    page = Path(rows[0]["written"]).read_text()
    assert all(word in page for word in ("fine", "film", "<html"))


def test_weights_in_a_file(folder: Path) -> None:
    assert status("explain", "images/cat.png", "--model", f"{MODULE}:plain", "--out", "before") == 0
    model = of_user("plain")
    torch.save({"state_dict": {f"module.{name}": 2 * value for name, value in model.state_dict().items()}}, "2.pth")
    assert status("explain", "images/cat.png", "--model", f"{MODULE}:plain", "--weights", "2.pth") == 0
    (before,), (after,) = summary(folder / "before"), summary(folder / "explanations")
    assert float(after["score"]) == pytest.approx(4 * float(before["score"]), rel=1e-4)


def test_a_model_in_training_mode_is_explained_in_eval_mode(folder: Path) -> None:
    assert status("explain", "images/dog.jpg", "--model", f"{MODULE}:training", *LRP_0) == 0


def test_the_default_preparation_of_images() -> None:
    transforms = import_torchvision().transforms
    image = Image.frombytes("RGB", (31, 50), bytes(torch.randint(0, 255, (31 * 50 * 3,)).tolist()))
    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    norm = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(default_image(image), transforms.Compose([*steps, norm])(image))


def test_normalization_is_undone_and_bounds_the_values() -> None:
    norm = Normalization((0.5, 0.25), (0.5, 0.125))
    assert norm.bounds == {"low": (-1.0, -2.0), "high": (1.0, 6.0)}
    image = torch.rand(2, 3, 4)
    changed = (image - torch.tensor([0.5, 0.25])[:, None, None]) / torch.tensor([0.5, 0.125])[:, None, None]
    torch.testing.assert_close(norm.undo(changed), image)


def test_progress_is_shown_in_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=is_terminal: shown)
        progress = Progress(3, "images")
        progress.set(2)
        progress.end(3)
        printed = capsys.readouterr().err
        assert bool(printed) is is_terminal
    assert printed.startswith("\r2 of 3 images") and "\r3 of 3 images" in printed and printed.endswith("\n")


def test_one_of_several_outputs(folder: Path) -> None:
    """The outputs are sums of pixels: the relevance of the image is the output."""
    call = ["explain", "images/dog.jpg", "--model", f"{MODULE}:several", "--output", "sums", "--target", "1"]
    assert status(*call, *LRP_0) == 0
    (row,) = summary(folder / "explanations")
    assert float(row["score"]) == pytest.approx(float(row["at the input"]), rel=1e-4)
    assert row["index"] == "1"


def test_images_that_do_not_fit_into_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fxlrp.commands import image_run

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(image_run, "_of_batch", full)
    assert status("explain", "images", "--model", f"{MODULE}:plain", "--batch", "2") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "2 images do not fit into memory: choose a smaller --batch" in lines[0]

"""``fxlrp dataset`` as a user calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import fxlrp
from command_models import MODULE, enter
from fxlrp.__main__ import main
from fxlrp.commands.images import default_image

pytest.importorskip("zarr", reason="zarr is not installed")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter(tmp_path, monkeypatch)


def test_a_folder_of_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["dataset", "images", "--model", f"{MODULE}:plain", "--target", "1", "--batch", "2", "--rules", "gradient"]
    main(call)
    printed = capsys.readouterr()
    assert "3 images explained, in relevance.zarr" in printed.out and not printed.err
    found = fxlrp.data.read(folder / "relevance.zarr")
    names = [str(name) for name in found.names[:]]
    assert names == ["cat.png", "dog.jpg", "pets/cat.png"]
    x = torch.stack([default_image(Image.open(folder / "images" / name)) for name in names]).requires_grad_()
    model = sys.modules[MODULE].plain()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    assert torch.allclose(torch.from_numpy(found.relevance[:]), (gradient * x).detach(), atol=1e-6)
    main(call)
    assert "3 images explained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--model", f"{MODULE}:plain"], "there is no folder 'nowhere'"),
        (["images", "--model", f"{MODULE}:plain", "--target", "99"], "99"),
        (["images", "--model", f"{MODULE}:plain", "--out", "images"], "is not a store"),
        (["images", "--model", f"{MODULE}:plain", "--workers", "-1"], "num_workers must be"),
    ],
    ids=["folder", "target", "store", "workers"],
)
def test_wrong_calls(arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["dataset", *arguments])
    assert done.value.code == 2 and message in capsys.readouterr().err

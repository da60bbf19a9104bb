"""Metadata of files that anyone may have written: they are read, or an error of fxlrp's own says what is wrong."""

from __future__ import annotations

import collections
import io
import json
import random
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp.errors import ExportError
from hostile import files

VALID: dict[str, Any] = {
    "format_version": 1,
    "fxlrp": "0.2.0",
    "torch": "2.10.0",
    "model": "Sequential",
    "target": "target",
    "inputs": [{"name": "input", "dtype": "float32", "shape": ["batch", 4]}],
    "outputs": ["relevance"],
    "rules": {"_0": {"operation": "linear", "rule": "Epsilon(epsilon=1e-06)", "origin": "default"}},
}


def archive(content: bytes, entry: str = "explain/extra/fxlrp.json", method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        made.writestr("explain/version", "1")
        made.writestr(entry, content)
    return file.getvalue()


def compiled(content: Any) -> bytes:
    return archive(json.dumps(content).encode(), "explain/data/aotinductor/model_metadata.json")


def damaged(valid: bytes, seed: int, count: int) -> Iterator[bytes]:
    generator = random.Random(seed)
    for _ in range(count):
        data = bytearray(valid)
        for _ in range(generator.choice([1, 1, 4, 30])):
            data[generator.randrange(len(data))] = generator.randrange(256)
        yield bytes(data[: generator.choice([len(data), len(data), generator.randrange(len(data))])])


def outcomes(path: Path, texts: Iterator[bytes]) -> collections.Counter[str]:
    found = collections.Counter[str]()
    for text in texts:
        path.write_bytes(text)
        try:
            assert fxlrp.deploy.metadata(path).keys() >= VALID.keys()
            found["read"] += 1
        except ExportError as error:
            assert path.name in str(error)
            found["refused"] += 1
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{text[:2000]!r}")
    return found


def test_the_valid_file_is_read(tmp_path: Path) -> None:
    for content in (archive(json.dumps(VALID).encode()), compiled({"fxlrp": json.dumps(VALID)})):
        (tmp_path / "file.pt2").write_bytes(content)
        assert fxlrp.deploy.metadata(tmp_path / "file.pt2") == VALID


def test_metadata_of_every_kind(tmp_path: Path) -> None:
    found = outcomes(tmp_path / "file.pt2", (archive(text) for text in files(VALID, seed=3, count=200)))
    assert found["refused"] > 100 and found["read"] > 10, found
    found = outcomes(
        tmp_path / "file.pt2", (compiled({"fxlrp": text.decode("latin-1")}) for text in files(VALID, 4, 100))
    )
    assert found["refused"] > 50, found
    texts = (
        archive(text, "explain/x_metadata.json") for text in files({"fxlrp": json.dumps(VALID)}, seed=5, count=100)
    )
    assert outcomes(tmp_path / "file.pt2", texts)["refused"] > 50


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_archives(method: int, tmp_path: Path) -> None:
    found = outcomes(tmp_path / "file.pt2", damaged(archive(json.dumps(VALID).encode(), method=method), 6, 300))
    assert found["refused"] > 100 and found["read"] > 10, found


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compression_that_is_not_of_pytorch(method: int, tmp_path: Path) -> None:
    texts = damaged(archive(json.dumps(VALID).encode(), method=method), 6, 100)
    assert outcomes(tmp_path / "file.pt2", texts)["read"] == 0


def test_a_damaged_program(tmp_path: Path) -> None:
    path = tmp_path / "file.pt2"
    fxlrp.compile(nn.Linear(4, 3).eval()).export(path, torch.rand(2, 4))
    whole = path.read_bytes()
    assert outcomes(path, damaged(whole, 7, 100)).keys() <= {"read", "refused"}
    assert outcomes(path, (whole[:at] for at in range(0, len(whole), len(whole) // 50)))["refused"] >= 50


def test_damaged_onnx(tmp_path: Path) -> None:
    import onnx

    model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], []))
    model.metadata_props.add(key="fxlrp", value=json.dumps(VALID))
    found = outcomes(tmp_path / "file.onnx", damaged(model.SerializeToString(), 8, 500))
    assert found["refused"] > 100 and found["read"] > 10, found
    found = outcomes(tmp_path / "file.onnx", iter([b"", b"nothing", archive(b"{}")]))
    assert found["refused"] == 3


def test_an_entry_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["fxlrp.deploy.metadata"], "_MOST_BYTES", 10**6)
    (tmp_path / "bomb.pt2").write_bytes(archive(b" " * (10**6 + 1), method=zipfile.ZIP_DEFLATED))
    assert (tmp_path / "bomb.pt2").stat().st_size < 5000
    with pytest.raises(ExportError, match="has 1000001 bytes"):
        fxlrp.deploy.metadata(tmp_path / "bomb.pt2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, r"have the format 2, but this version of fxlrp reads the format 1"),
        ({"rules": []}, r"rules must be a mapping, not a list"),
        ({"inputs": [{"name": "x"}]}, r"inputs\[0\] has no entry 'dtype'"),
        ({"target": {}}, r"target must be a name or indices"),
    ],
)
def test_the_message_names_the_place(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "file.pt2").write_bytes(archive(json.dumps({**VALID, **change}).encode()))
    with pytest.raises(ExportError, match=message):
        fxlrp.deploy.metadata(tmp_path / "file.pt2")


@pytest.mark.parametrize("name", ["missing.pt2", "missing.onnx"])
def test_a_file_that_does_not_exist(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fxlrp.deploy.metadata(tmp_path / name)

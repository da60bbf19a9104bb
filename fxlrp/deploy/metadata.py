"""The metadata of an exported file: JSON, under the same name in every format."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fxlrp.arguments import path_of
from fxlrp.deploy.program import Exportable, ExportedExplanation
from fxlrp.errors import ExportError
from fxlrp.extras import require
from fxlrp.file_format import Malformed, anything, by_type, index, list_of, mapping_of, parse, record, size, text
from fxlrp.program import annotation
from fxlrp.version import __version__
from fxlrp.vocabulary.lookup import Vocabulary

KEY = "fxlrp"
EXTRA_FILE = "fxlrp.json"
FORMAT_VERSION = 1


def rules_of(nodes: Iterable[fx.Node], vocabulary: Vocabulary) -> dict[str, dict[str, str]]:
    """Return the operation, the rule and its origin of every annotated node, in words."""
    rules = {}
    for node in nodes:
        annotated, operation = annotation(node), vocabulary.operation(node)
        if annotated is not None and operation is not None:
            rules[node.name] = {
                "operation": operation.name,
                "rule": str(annotated.rule),
                "origin": annotated.origin,
            }
    return rules


def describe(explanation: Exportable, program: ExportedExplanation) -> str:
    """Return the metadata of an exported explanation, as JSON."""
    dtypes = {node.name: node.meta["val"].dtype for node in program.exported.graph.nodes if node.op == "placeholder"}
    inputs = zip(program.inputs, program.exported.graph_signature.user_inputs, program.shapes, strict=True)
    return json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "fxlrp": __version__,
            "torch": torch.__version__,
            "model": explanation.model,
            "target": program.target,
            "inputs": [
                {
                    "name": name,
                    "dtype": str(dtypes[str(node)]).removeprefix("torch."),
                    "shape": shape,
                    **({"meaning": program.meanings[name]} if name in program.meanings else {}),
                }
                for name, node, shape in inputs
            ],
            "conditions": program.conditions,
            "outputs": list(program.outputs),
            "rules": explanation.rules,
        }
    )


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata of a file that :meth:`fxlrp.Explainer.export` wrote.

    Args:
        path: The file, of any format. No code in it is run.

    Returns:
        ``format_version``; the versions of ``fxlrp`` and ``torch``; the ``model``'s class; the ``target`` (the name of
        the input, the fixed indices, or ``"largest"``); the ``inputs`` with their names, types and shapes, where a
        dynamic size has a name; the ``outputs``; and in ``rules`` the operation, the rule and its origin for every
        step.

    Raises:
        ExportError: The file was not exported by fxlrp, or is damaged.
        OSError: The file cannot be opened.
        ImportError: The file is an ONNX file, and ``onnx`` is not installed.

    Example:
        >>> import tempfile, torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> path = tempfile.mkdtemp() + "/explain.pt2"
        >>> fxlrp.compile(model).export(path, torch.ones(1, 4))
        >>> fxlrp.deploy.metadata(path)["inputs"][0]
        {'name': 'input', 'dtype': 'float32', 'shape': ['batch', 4]}
    """
    file = path_of(path, error=ExportError)
    name, is_onnx = repr(os.fspath(path)), file.suffix == ".onnx"
    try:
        content = _of_onnx(file) if is_onnx else _of_archive(file)
        if content is None:
            raise ExportError(f"{name} is not an explanation that fxlrp exported")
        found: dict[str, Any] = parse(content, _METADATA)
    except Malformed as error:
        raise ExportError(f"{name} is damaged, or not an explanation that fxlrp exported: {error}") from error
    if found["format_version"] != FORMAT_VERSION:
        raise ExportError(
            f"the metadata of {name} have the format {found['format_version']}, but this version of fxlrp "
            f"reads the format {FORMAT_VERSION}"
        )
    return found


# A slice or an ellipsis is in words.
_index = by_type("an index, a slice or an ellipsis", {int: index, str: text})
_size = by_type("a size or the name of one", {int: size, str: text})
_METADATA = record(
    {
        "format_version": size,
        "fxlrp": text,
        "torch": text,
        "model": text,
        "target": by_type("a name or indices", {str: text, list: list_of(_index)}),
        "inputs": list_of(record({"name": text, "dtype": text, "shape": list_of(_size)}, {"meaning": text})),
        "outputs": list_of(text),
        "rules": mapping_of(record({"operation": text, "rule": text, "origin": text})),
    },
    {"conditions": mapping_of(text)},
)

# More than the metadata of any model need. A small archive may contain an entry that would fill the memory.
_MOST_BYTES = 2**28


def _of_onnx(path: Path) -> str | None:
    onnx = require("onnx", "onnx")
    decode_error = require("google.protobuf.message", "onnx").DecodeError
    try:
        model = onnx.load(path, load_external_data=False)
    except decode_error as error:
        raise Malformed(f"it is not an ONNX file: {error}") from error
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), None)


def _of_archive(path: Path) -> bytes | str | None:
    with path.open("rb") as file:
        # These are the errors of damaged archives, of damaged entries, and of features that zipfile lacks.
        try:
            if not zipfile.is_zipfile(file):
                return None
            with zipfile.ZipFile(file) as archive:
                return _in_archive(archive)
        except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError) as error:
            raise Malformed(f"the archive cannot be read: {error}") from error


def _in_archive(archive: zipfile.ZipFile) -> bytes | str | None:
    for entry in archive.infolist():
        if entry.filename.endswith(f"/extra/{EXTRA_FILE}"):
            return _content(archive, entry)
        if entry.filename.endswith("_metadata.json"):
            compiled = parse(_content(archive, entry), mapping_of(anything))
            if KEY in compiled:
                text(compiled[KEY], KEY)
                return str(compiled[KEY])
    return None


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Malformed(f"{entry.filename} is compressed in a way that PyTorch does not use")
    if entry.file_size > _MOST_BYTES:
        raise Malformed(f"{entry.filename} has {entry.file_size} bytes")
    return archive.read(entry)

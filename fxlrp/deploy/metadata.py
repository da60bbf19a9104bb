"""The metadata of an exported file: JSON, under the same name in every format."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx

from fxlrp.deploy.program import Exportable, ExportedExplanation
from fxlrp.errors import ExportError
from fxlrp.extras import require
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
                {"name": name, "dtype": str(dtypes[str(node)]).removeprefix("torch."), "shape": shape}
                for name, node, shape in inputs
            ],
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
        ExportError: The file was not exported by fxlrp.

    Example:
        >>> import tempfile, torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
        >>> path = tempfile.mkdtemp() + "/explain.pt2"
        >>> fxlrp.compile(model).export(path, torch.ones(1, 4))
        >>> fxlrp.deploy.metadata(path)["inputs"][0]
        {'name': 'input', 'dtype': 'float32', 'shape': ['batch', 4]}
    """
    text = _of_onnx(Path(path)) if Path(path).suffix == ".onnx" else _of_archive(Path(path))
    if text is None:
        raise ExportError(f"{os.fspath(path)!r} is not an explanation that fxlrp exported")
    found: dict[str, Any] = json.loads(text)
    return found


def _of_onnx(path: Path) -> str | None:
    model = require("onnx", "onnx").load(path, load_external_data=False)
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), None)


def _of_archive(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(f"/extra/{EXTRA_FILE}"):
                return archive.read(name).decode()
            if name.endswith("_metadata.json"):
                compiled: Mapping[str, str] = json.loads(archive.read(name))
                if KEY in compiled:
                    return compiled[KEY]
    return None

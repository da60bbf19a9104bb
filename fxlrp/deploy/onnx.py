"""ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from fxlrp.deploy import metadata
from fxlrp.deploy.program import ExportedExplanation
from fxlrp.errors import ExportError
from fxlrp.extras import require


def require_packages() -> None:
    """Import the packages that ``torch.onnx`` needs.

    Raises:
        ImportError: A package is not installed; the message names the extra that installs it.
    """
    for name in ("onnx", "onnxscript"):
        require(name, "onnx")


def write(program: ExportedExplanation, path: Path, description: str) -> None:
    """Translate the program to ONNX and write it. Weights of more than 2 GB go into a second file beside it.

    Raises:
        ExportError: An operator has no translation.
    """
    try:
        made = torch.onnx.export(
            program.exported,
            (),
            input_names=program.inputs,
            output_names=program.outputs,
            dynamic_shapes=_once(program.shapes),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(_cannot_translate(error)) from error
    assert made is not None
    made.model.metadata_props[metadata.KEY] = description
    made.save(path)


def _once(shapes: Sequence[Sequence[int | str]]) -> list[dict[int, str] | None]:
    """The names of dynamic sizes, each at its first occurrence."""
    known: set[str] = set()
    by_input: list[dict[int, str] | None] = []
    for shape in shapes:
        first = {dim: size for dim, size in enumerate(shape) if isinstance(size, str) and size not in known}
        known.update(first.values())
        by_input.append(first or None)
    return by_input


def _cannot_translate(error: BaseException) -> str:
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    lines = str(first).splitlines()
    return (
        f"ONNX does not support all operators of the explanation ({lines[0] if lines else type(first).__name__}): "
        "export it with format='export' or 'aoti', or choose other rules for these operations"
    )

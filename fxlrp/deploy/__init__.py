"""Explanations as files that run without fxlrp: ``torch.export`` programs, AOTInductor packages and ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from fxlrp.capture import DynamicShapes
from fxlrp.deploy import onnx, package
from fxlrp.deploy.decompositions import ADAPTIVE, KERNELS
from fxlrp.deploy.metadata import describe, rules_of
from fxlrp.deploy.metadata import read as metadata
from fxlrp.deploy.program import Exportable, ExportedExplanation, ExportTarget, export
from fxlrp.errors import ExportError
from fxlrp.inputs import Examples

__all__ = ["Examples", "ExportTarget", "Exportable", "Format", "metadata", "rules_of", "write"]

Format: TypeAlias = Literal["export", "aoti", "onnx"]


class _Writer(NamedTuple):
    suffix: str
    write: Callable[[ExportedExplanation, Path, str], None]
    require: Callable[[], None] = lambda: None
    decompositions: Mapping[Any, Callable[..., Any]] = {}


_WRITERS: Mapping[str, _Writer] = {
    "export": _Writer(".pt2", package.write_export),
    "aoti": _Writer(".pt2", package.write_aoti, package.require_compiler, ADAPTIVE),
    "onnx": _Writer(".onnx", onnx.write, onnx.require_packages, {**ADAPTIVE, **KERNELS}),
}


def write(
    explanation: Exportable,
    path: str | os.PathLike[str],
    *,
    format: Format = "export",
    target: ExportTarget = "input",
    dynamic_shapes: DynamicShapes = None,
) -> None:
    """Write an explanation as a file; the arguments are those of :meth:`fxlrp.Explainer.export`.

    Raises:
        ExportError: The format is unknown, or the explanation cannot be exported to it.
    """
    if format not in _WRITERS:
        raise ExportError(f"unknown format {format!r}; choose one of: {', '.join(_WRITERS)}")
    writer = _WRITERS[format]
    if Path(path).suffix != writer.suffix:
        raise ExportError(f"a file of the format {format!r} must end in {writer.suffix}, but got {os.fspath(path)!r}")
    writer.require()
    program = export(explanation, target=target, dynamic_shapes=dynamic_shapes, decompositions=writer.decompositions)
    writer.write(program, Path(path), describe(explanation, program))

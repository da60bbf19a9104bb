"""Explanations as files that run without fxlrp: ``torch.export`` programs, AOTInductor packages and ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from fxlrp.arguments import flag, path_of, shown
from fxlrp.capture import DynamicShapes
from fxlrp.deploy import onnx, package
from fxlrp.deploy.controls import ExportOnly, ExportTarget
from fxlrp.deploy.decompositions import ADAPTIVE, DENSE, KERNELS, OPEN_SIZES
from fxlrp.deploy.metadata import describe, rules_of
from fxlrp.deploy.metadata import read as metadata
from fxlrp.deploy.program import Exportable, ExportedExplanation, export
from fxlrp.errors import ExportError
from fxlrp.inputs import Examples

__all__ = [
    "Examples",
    "ExportOnly",
    "ExportTarget",
    "Exportable",
    "Format",
    "check_destination",
    "metadata",
    "rules_of",
    "write",
]

Format: TypeAlias = Literal["export", "aoti", "onnx"]


class _Writer(NamedTuple):
    suffix: str
    write: Callable[[ExportedExplanation, Path, str], None]
    require: Callable[[], None] = lambda: None
    decompositions: Mapping[Any, Callable[..., Any]] = {}
    writes_out_attention: bool = False


_WRITERS: Mapping[str, _Writer] = {
    "export": _Writer(".pt2", package.write_export, decompositions=OPEN_SIZES),
    "aoti": _Writer(".pt2", package.write_aoti, package.require_compiler, {**ADAPTIVE, **OPEN_SIZES, **DENSE}),
    "onnx": _Writer(".onnx", onnx.write, onnx.require_packages, {**ADAPTIVE, **KERNELS}, writes_out_attention=True),
}


def write(
    explanation: Exportable,
    path: str | os.PathLike[str],
    *,
    format: Format = "export",
    target: ExportTarget = "input",
    dynamic_shapes: DynamicShapes = None,
    any_device: bool = False,
) -> None:
    """Write an explanation as a file; the arguments are those of :meth:`fxlrp.Explainer.export`.

    Raises:
        ExportError: The format is unknown, or the explanation cannot be exported to it.
    """
    file = check_destination(path, format)
    if flag("any_device", any_device, ExportError) and format == "aoti":
        raise ExportError("a compiled package runs on one kind of device: any_device=True needs another format")
    writer = _WRITERS[format]
    writer.require()
    program = export(
        explanation,
        target=target,
        dynamic_shapes=dynamic_shapes,
        decompositions=writer.decompositions,
        writes_out_attention=any_device or writer.writes_out_attention,
    )
    writer.write(program, file, describe(explanation, program))


def check_destination(path: str | os.PathLike[str], format: Format) -> Path:
    """Check the format of a file, and that its name fits.

    Raises:
        ExportError: The format is unknown, the name ends otherwise, or the folder does not exist.
    """
    if not isinstance(format, str) or format not in _WRITERS:
        raise ExportError(f"unknown format {shown(format)}; choose one of: {', '.join(_WRITERS)}")
    file, suffix = path_of(path, error=ExportError), _WRITERS[format].suffix
    if file.suffix != suffix:
        raise ExportError(f"a file of the format {format!r} must end in {suffix}, but got {shown(os.fspath(path))}")
    if not file.absolute().parent.is_dir():
        raise ExportError(f"the folder {str(file.parent)!r} does not exist")
    return file

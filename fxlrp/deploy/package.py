"""Files that PyTorch runs: ``torch.export`` programs, and packages compiled by AOTInductor."""

from __future__ import annotations

from pathlib import Path

import torch

from fxlrp.deploy import metadata
from fxlrp.deploy.program import BATCH, ExportedExplanation
from fxlrp.errors import ExportError

# Inductor is imported where it is used, because it takes seconds to import.


def write_export(program: ExportedExplanation, path: Path, description: str) -> None:
    """Write the program itself."""
    torch.export.save(program.exported, path, extra_files={metadata.EXTRA_FILE: description})


def require_compiler() -> None:
    """Check that a compiler for AOTInductor is installed.

    Raises:
        ExportError: No compiler was found.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ExportError("AOTInductor needs a C++ compiler: install g++ or clang, or set CXX") from error


def write_aoti(program: ExportedExplanation, path: Path, description: str) -> None:
    """Compile the program and write it with its machine code.

    Raises:
        ExportError: AOTInductor cannot compile the program.
    """
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.exc import CppCompileError, InductorError

    options = {
        "aot_inductor.metadata": {metadata.KEY: description},
        # With a lower bound, the input checks, if enabled, would reject a batch of one.
        "aot_inductor.check_lowerbound": False,
        # What depends on weights alone is computed once. `freezing` would pack weights, too, but its packages are wrong
        # where the sizes of images are open.
        "aot_inductor.use_runtime_constant_folding": True,
        "layout_optimization": _has_open_sizes(program),
    }
    try:
        aoti_compile_and_package(program.exported, package_path=str(path), inductor_configs=options)
    except (InductorError, CppCompileError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"AOTInductor cannot compile the explanation ({reason}): export it with format='export' or 'onnx'"
        ) from error


def _has_open_sizes(program: ExportedExplanation) -> bool:
    """Whether a size beside that of the batch is open.

    Converting the layouts of images costs more than it saves on a CPU, but packages of open sizes fail at other sizes
    without it (PyTorch 2.13).
    """
    return any(not isinstance(size, int) and size != BATCH for shape in program.shapes for size in shape)

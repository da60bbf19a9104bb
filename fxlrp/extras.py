"""Optional dependencies: imported where they are used, never by `import fxlrp` itself."""

from __future__ import annotations

import importlib
import threading
from types import ModuleType

import torch

__all__ = ["import_torchvision", "require"]

# The operators whose fake implementations torchvision registers at import, and which must be declared.
_NEEDED_AT_IMPORT = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_lock = threading.RLock()
_declarations: list[torch.library.Library] = []  # a declaration ends with its Library


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise an error that names the extra of fxlrp that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise  # the package is installed, but one of its own imports fails
        raise ImportError(f"{package} is not installed: pip install 'fxlrp[{extra}]'", name=package) from error


def import_torchvision() -> ModuleType:
    """Import torchvision, even if it is built for CUDA and torch is not.

    Such a torchvision cannot load its compiled operators, and its import fails because two operators are not
    declared. With these declarations its models, transforms and datasets work, but its compiled operators (nms,
    roi_align, ...) remain unavailable. A torchvision that matches torch is imported unchanged.
    """
    with _lock:
        try:
            return require("torchvision", "vision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        _declarations.append(library)
        for operator, schema in _NEEDED_AT_IMPORT.items():
            if not hasattr(torch.ops.torchvision, operator):
                library.define(schema)
        return require("torchvision", "vision")

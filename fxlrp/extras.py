"""Optional dependencies: imported where they are used, never by `import fxlrp` itself."""

from __future__ import annotations

import importlib
import threading
from types import ModuleType

import torch

__all__ = ["import_torchvision", "require"]

# The operators whose behaviour on fake tensors torchvision registers at import: it needs them declared.
_NEEDED_AT_IMPORT = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

_lock = threading.RLock()
_declarations: list[torch.library.Library] = []  # a declaration ends with its Library


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of fxlrp brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise  # the package is there, something inside it or that it needs is not
        raise ImportError(
            f"{package} is needed here and not installed: pip install 'fxlrp[{extra}]'", name=package
        ) from error


def import_torchvision() -> ModuleType:
    """Import torchvision, also one built for CUDA beside a torch that is not.

    Such a torchvision cannot load its compiled operators, and its import then fails for want of two operator
    declarations. With them its models, transforms and datasets work; its compiled operators (nms, roi_align,
    ...) stay unavailable. A torchvision that matches its torch is imported as it is.
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

"""The fingerprint of a model: its modules and their settings; shapes, types and values of parameters and buffers."""

from __future__ import annotations

import ctypes
import hashlib
import re
from typing import Any

from torch import Tensor, nn

from fxlrp.errors import RecipeError


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Return the fingerprint of ``model``, as values that JSON supports."""
    tensors = {name: tensor_fingerprint(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
    # The address in the repr of an object differs between processes.
    structure = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    return {"class": type(model).__qualname__, "structure": _digest(structure.encode()), "tensors": tensors}


def check(model: nn.Module, saved: dict[str, Any], *, weights: bool) -> None:
    """Check that a model matches a fingerprint.

    Args:
        model: The model.
        saved: The fingerprint.
        weights: Whether the values of parameters and buffers must also be the same.

    Raises:
        RecipeError: The model differs; the message says how.
    """
    found = fingerprint(model)
    if found["class"] != saved["class"]:
        raise RecipeError(f"the recipe is for a {saved['class']}, not for a {found['class']}")
    for name in sorted(saved["tensors"].keys() ^ found["tensors"].keys()):
        has = "does not have" if name in saved["tensors"] else "also has"
        raise RecipeError(f"the model has changed: it {has} the parameter or buffer {name!r}")
    for name, was in saved["tensors"].items():
        now = found["tensors"][name]
        for fact in ("shape", "dtype"):
            if now[fact] != was[fact]:
                raise RecipeError(f"the model has changed: the {fact} of {name!r} is {now[fact]}, and was {was[fact]}")
    if found["structure"] != saved["structure"]:
        raise RecipeError("the model has changed: its modules or their settings differ; print(model) shows them")
    changed = [name for name, was in saved["tensors"].items() if found["tensors"][name]["values"] != was["values"]]
    if weights and changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise RecipeError(
            f"the model has changed: the values of {changed[0]!r}{more} differ; fxlrp.load(..., weights=False) accepts "
            "a model of the same structure with any weights"
        )


def tensor_fingerprint(value: Tensor) -> dict[str, Any]:
    """Return the shape and type of a tensor, and a digest of its values."""
    if value.is_meta:
        return {"shape": list(value.shape), "dtype": str(value.dtype), "values": "none"}
    data = value.detach().cpu().contiguous()
    memory = (ctypes.c_char * (data.numel() * data.element_size())).from_address(data.data_ptr() or 1)
    return {"shape": list(data.shape), "dtype": str(data.dtype), "values": _digest(memory if data.numel() else b"")}


def _digest(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()

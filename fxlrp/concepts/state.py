"""Files with the state of reference samples, which anyone may have written."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import InputError

_TYPES: Mapping[str, type] = {
    "at": list,
    "k": int,
    "reduce": str,
    "relative": bool,
    "seen": int,
    "explainer": str,
    "best": dict,
    "sums": dict,
}
_WHOLE, _REAL = torch.int64, torch.float64
# The type and the number of dimensions of each tensor.
_BEST = {"scores": (_REAL, 2), "samples": (_WHOLE, 2), "classes": (_WHOLE, 2), "positions": (_WHOLE, 3)}
_SUMS = {"classes": (_WHOLE, 1), "count": (_WHOLE, 1), "mean": (_REAL, 2), "squares": (_REAL, 2)}
_MEASURES = {"relevance", "activation"}


def read_state(path: Path) -> dict[str, Any]:
    """Read a state, without running code in the file.

    Args:
        path: The file.

    Raises:
        InputError: The file is not such a state.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        # PyTorch's message may advise to run the code in the file.
        raise InputError(f"{str(path)!r} is not a file of reference samples: it is not one of tensors") from error
    problem = _problem(state)
    if problem:
        raise InputError(f"{str(path)!r} is not a file of reference samples: {problem}")
    return dict(state)


def _problem(state: Any) -> str | None:
    """What is wrong with a state."""
    if not isinstance(state, dict) or state.keys() != _TYPES.keys():
        return f"it must have the entries {', '.join(_TYPES)}"
    for name, kind in _TYPES.items():
        if type(state[name]) is not kind:
            return f"{name!r} must be of the type {kind.__name__}"
    if not all(isinstance(name, str) for name in (*state["at"], *state["best"])):
        return "the names of places must be strings"
    if state["best"].keys() != state["sums"].keys():
        return "'best' and 'sums' must have the same places"
    for name in state["best"]:
        for part, form in (("best", _BEST), ("sums", _SUMS)):
            measured = state[part][name]
            if not isinstance(measured, dict) or measured.keys() != _MEASURES:
                return f"{part!r} of {name!r} must have the entries {', '.join(sorted(_MEASURES))}"
            if not all(_fits(tensors, form) for tensors in measured.values()):
                return f"the tensors in {part!r} of {name!r} do not fit"
    return None


def _fits(tensors: Any, form: Mapping[str, tuple[torch.dtype, int]]) -> bool:
    """Whether tensors have the types and dimensions of a form, and sizes in common."""
    if not isinstance(tensors, dict) or tensors.keys() != form.keys():
        return False
    if not all(isinstance(each, Tensor) for each in tensors.values()):
        return False
    if any((each.dtype, each.dim()) != form[name] for name, each in tensors.items()):
        return False
    if "squares" in form:
        rows = {tuple(each.shape[:1]) for each in tensors.values()}
        return len(rows) == 1 and bool(tensors["mean"].shape == tensors["squares"].shape)
    sizes = {tuple(each.shape[:2]) for each in tensors.values()}
    return len(sizes) == 1

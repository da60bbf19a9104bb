"""Weights in a file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp.commands.reasons import because
from fxlrp.errors import InputError
from fxlrp.extras import require

DEFAULT, RANDOM = "DEFAULT", "RANDOM"
# Training scripts keep the weights of the model beside other things under these names.
_NESTED = ("state_dict", "model_state_dict", "model")
_PARALLEL = "module."


def fill(model: nn.Module, path: Path, name: str) -> None:
    """Load the weights in a file into a model.

    Args:
        model: The model.
        path: A state dict written by ``torch.save``, or a file of safetensors.
        name: The name of the model, for messages.

    Raises:
        InputError: The file cannot be read, or its weights do not fit.
    """
    given, own = _read(path), model.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    problems = {
        "it lacks": sorted(own.keys() - given.keys() - counters),
        "the model has no": sorted(given.keys() - own.keys()),
        "of another size are": sorted(key for key in own.keys() & given.keys() if own[key].shape != given[key].shape),
    }
    found = "; ".join(f"{what} {_some(keys)}" for what, keys in problems.items() if keys)
    if found:
        resized = bool(problems["of another size are"])
        hint = " (for another number of classes, name them by --classes FILE)" * resized
        raise InputError(f"the weights in {path} do not fit {name}: {found}{hint}")
    model.load_state_dict(given, strict=False)


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            found: Any = require("safetensors.torch", "text").load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # What torch says of it advises to run the code in the file.
        raise InputError(
            f"{path} is not a file of weights alone, as torch.save(model.state_dict(), ...) writes"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a file of weights, which torch.save(model.state_dict(), ...) writes: {because(error)}"
        ) from error
    while isinstance(found, Mapping):
        inner = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    if not isinstance(found, Mapping) or not found or not all(isinstance(each, Tensor) for each in found.values()):
        raise InputError(f"{path} contains no state dict: write it by torch.save(model.state_dict(), ...)")
    if all(key.startswith(_PARALLEL) for key in found):
        return {key.removeprefix(_PARALLEL): value for key, value in found.items()}
    return found

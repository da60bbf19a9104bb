"""The settings of a run, as they are kept in the store: whoever resumes it must have the same."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp.data.portable import Call, tensors_in
from fxlrp.errors import InputError

# The characters of a digest, 64 bits: they tell accidents apart, not forgeries.
_SHORT = 16

# The setting that is the digest of the first call.
FIRST = "first_batch"


def described(value: Any) -> Any:
    """Return an argument as JSON: numbers as they are, tensors by a digest, functions by their name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor) or hasattr(value, "__array__"):
        tensor = torch.as_tensor(value)
        return f"tensor {tuple(tensor.shape)} {digest_of([tensor])}"
    if isinstance(value, Mapping):
        return {str(key): described(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: described(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {type(value).__name__: fields}
    if callable(value):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"function {named.__module__}.{named.__qualname__}"
    return str(value)


def digest_of(values: Iterable[Any]) -> str:
    """Return a digest of tensors, and of what else stands between them."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            dense = value.detach().cpu().contiguous()
            found.update(f"{dense.dtype} {tuple(dense.shape)} ".encode())
            found.update(dense.reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(repr(value).encode())
    return found.hexdigest()[:_SHORT]


def digest_of_call(call: Call) -> str:
    """Return a digest of the inputs and the target of a call."""
    target = [call.target] if isinstance(call.target, Tensor) else [described(call.target)]
    return digest_of([*tensors_in((call.args, call.kwargs)), *target])


def digest_of_weights(model: nn.Module) -> str:
    """Return a digest of the parameters and buffers of a model."""
    named = (*model.named_parameters(), *model.named_buffers())
    return digest_of(part for pair in named for part in pair)


def check_same(now: Mapping[str, Any], written: Mapping[str, Any], where: str) -> None:
    """Check that a run has the settings with which a store was written.

    Args:
        now: The settings of the run.
        written: Those in the store.
        where: The store, for the message.

    Raises:
        InputError: They differ.
    """
    names = [name for name in {**written, **now} if now.get(name) != written.get(name)]
    # The digest of the first call differs with any argument; alone, it says that the samples differ.
    names = [name for name in names if name != FIRST] or names
    if names:
        differences = "; ".join(f"{name} is {now.get(name)!r}, and was {written.get(name)!r}" for name in names)
        raise InputError(
            f"{where} was written with other settings: {differences}. Use the same settings to resume, or another path"
        )

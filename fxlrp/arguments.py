"""Checks of arguments that public functions share, and how their errors show a value."""

from __future__ import annotations

import difflib
import math
import operator
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fxlrp.errors import FxlrpError, InputError

_LONGEST = 300


def shown(value: Any) -> str:
    """Return a value as an error shows it: its ``repr``, cut where it is long, or its type where it has none."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}" if value.is_nested else f"a {tuple(value.shape)} tensor of {value.dtype}"
    try:
        text = repr(value)
    # The value is the caller's own, and may raise anything, such as for a list that is thousands of levels deep.
    except Exception:
        return f"an object of {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def flag(name: str, value: Any, error: type[FxlrpError] = InputError) -> bool:
    """Return an argument that is True or False.

    Args:
        name: The name of the argument, for messages.
        value: The argument.
        error: The error to raise.
    """
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, not {shown(value)}")
    return value


def whole(name: str, value: Any, least: int = 1, error: type[FxlrpError] = InputError) -> int:
    """Return an argument that is a whole number, of Python or NumPy.

    Args:
        name: The name of the argument, for messages.
        value: The argument.
        least: The smallest number that is allowed.
        error: The error to raise.
    """
    is_array = getattr(value, "ndim", 0) != 0
    is_number = hasattr(type(value), "__index__") and not isinstance(value, bool | Tensor) and not is_array
    found = operator.index(value) if is_number else None
    if found is None or found < least:
        raise error(f"{name} must be a whole number of at least {least}, not {shown(value)}")
    return found


def mapping(name: str, value: Any, what: str, error: type[FxlrpError] = InputError) -> Mapping[str, Any]:
    """Return an argument that is a mapping from strings.

    Args:
        name: The name of the argument, for messages.
        value: The argument.
        what: What it maps to what, for messages.
        error: The error to raise.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise error(f"{name} must be a mapping from {what}, not {shown(value)}")
    return value


def path_of(path: Any, suffix: str = "", hint: str = "", error: type[FxlrpError] = InputError) -> Path:
    """Return the path of a file.

    Args:
        path: A string or an object with a path.
        suffix: How the name of the file must end, such as ``".html"``; empty if it may end in any way.
        hint: What else to do, for the error of another end.
        error: The error to raise.
    """
    found = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(found, str) or not found:
        raise error(f"path must be the path of a file, as a string or a pathlib.Path, not {shown(path)}")
    try:
        is_valid = b"\0" not in os.fsencode(found)
    except UnicodeEncodeError:
        is_valid = False
    if not is_valid:
        raise error(f"path={shown(path)} is not the path of a file: it has a character that no file system has")
    if suffix and Path(found).suffix.lower() != suffix:
        raise error(f"path={shown(str(path))} does not end in {suffix}{hint}")
    return Path(found)


def as_tensor(name: str, value: Any, error: type[FxlrpError] = InputError) -> Tensor:
    """Return a tensor, an array or nested lists as a dense tensor on the CPU, of their own type.

    Args:
        name: The name of the argument, for messages.
        value: The argument.
        error: The error to raise.
    """
    if isinstance(value, Tensor) and (value.is_meta or value.is_nested):
        raise error(f"{name} is {'on the meta device and has no values' if value.is_meta else 'a nested tensor'}")
    try:
        given = value if isinstance(value, Tensor) else torch.as_tensor(_in_memory_order(value))
        found = given.detach().cpu()
        return found if found.layout == torch.strided else found.to_dense()
    except (TypeError, ValueError, RuntimeError, OverflowError) as failure:
        raise error(
            f"{name} must be a tensor, an array or a list of numbers, not {shown(value)}: {failure}"
        ) from failure


def _in_memory_order(value: Any) -> Any:
    """An array in the order of memory and of bytes that tensors have: flipped, read-only or of another machine."""
    if not hasattr(value, "__array__"):
        return value
    import numpy  # whoever passes an array has it

    array = numpy.asarray(value)
    return numpy.array(array, array.dtype.newbyteorder("="), order="C")


def tolerance_of(tolerance: Any) -> float:
    """Return a tolerance, which is a real number.

    Raises:
        InputError: It is not one.
    """
    is_number = isinstance(tolerance, Tensor) and tolerance.dim() == 0 and not tolerance.is_meta
    found = tolerance.item() if is_number else tolerance
    if isinstance(found, bool) or not isinstance(found, int | float) or math.isnan(found):
        raise InputError(f"tolerance must be a number, not {shown(tolerance)}")
    return float(found) if -sys.float_info.max <= found <= sys.float_info.max else math.inf


def similar(name: str, known: Iterable[str]) -> str:
    """Return the names that resemble one, as the end of a message; empty if there are none."""
    close = difflib.get_close_matches(name, dict.fromkeys(known))
    return f"; similar names: {', '.join(close)}" if close else ""

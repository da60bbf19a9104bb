"""Attributes that have a new name."""

from __future__ import annotations

import warnings
from typing import TypeVar

T = TypeVar("T")


def renamed(old: str, new: str, value: T) -> T:
    """Return ``value``, which was read under the name of version 0.1, and warn.

    Args:
        old: The name of the attribute in version 0.1.
        new: Its name now.
        value: Its value.
    """
    warnings.warn(f"the attribute {old} is now {new}", DeprecationWarning, stacklevel=3)
    return value

"""Integers among the arguments of users."""

from __future__ import annotations

from typing import Any


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python. Truth values are not, although ``bool`` is a kind of ``int``."""
    return isinstance(value, int) and not isinstance(value, bool)

"""A call that the user interrupts, at a moment of choice."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any


class _Moments:
    """Counts calls of Python functions, and interrupts one of them.

    Python raises the interrupt of Ctrl+C where a function begins, or a loop turns, and never within a call into C.
    """

    def __init__(self, at: int | None = None) -> None:
        self.count = 0
        self._at = at

    def __call__(self, frame: types.FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        self.count += 1
        if self.count == self._at:
            sys.setprofile(None)
            raise KeyboardInterrupt


def moments(function: Callable[[], Any]) -> int:
    """Return the number of moments at which a call can be interrupted, once what it needs is imported."""
    function()
    seen = _Moments()
    sys.setprofile(seen)
    try:
        function()
    finally:
        sys.setprofile(None)
    return seen.count


def interrupted(function: Callable[[], Any], at: int) -> bool:
    """Interrupt a call as Ctrl+C would.

    Args:
        function: The function.
        at: The moment.

    Returns:
        Whether the call was interrupted; otherwise it had ended before.
    """
    sys.setprofile(_Moments(at))
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False

"""What explains the samples of a dataset: this process, or the actors of Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from fxlrp.arguments import shown
from fxlrp.data.local import Local
from fxlrp.data.ray_engine import Ray
from fxlrp.errors import InputError

Engine: TypeAlias = "Literal['local', 'ray'] | Ray"

_ENGINES: Mapping[str, Callable[[], Local | Ray]] = {"local": Local, "ray": Ray}


def engine_of(given: Any) -> Local | Ray:
    """Return the engine that an argument means.

    Raises:
        InputError: It means none.
    """
    if isinstance(given, Local | Ray):
        return given
    if not isinstance(given, str) or given not in _ENGINES:
        raise InputError(
            f"engine must be {' or '.join(map(repr, _ENGINES))}, or fxlrp.data.Ray(...), not {shown(given)}"
        )
    return _ENGINES[given]()

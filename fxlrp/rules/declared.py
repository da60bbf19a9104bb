"""The parameters of presets, checked when a preset is made."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec

from fxlrp.errors import RuleError
from fxlrp.rules.preset import Preset

_P = ParamSpec("_P")


def declared(function: Callable[_P, Preset]) -> Callable[_P, Preset]:
    """Make unknown parameters of a preset an error that lists the known ones."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def preset(*args: _P.args, **kwargs: _P.kwargs) -> Preset:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            plain = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
            raise RuleError(f"the preset {function.__name__}{inspect.Signature(plain)}: {error}") from error
        return function(*args, **kwargs)

    return preset

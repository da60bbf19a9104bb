"""Rules, selectors and presets."""

import warnings
from typing import Any

from fxlrp.rules import specs
from fxlrp.rules.dictionaries import from_dict, to_dict
from fxlrp.rules.selectors import FirstLayer
from fxlrp.rules.specs import *  # noqa: F403 - the list of rules stands beside the rules

__all__ = ["FirstLayer", "from_dict", "to_dict", *specs.__all__]

_RENAMED = {"Pass": "PassThrough"}


def __getattr__(name: str) -> Any:
    """Return a rule by the name that it had in version 0.1."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"fxlrp.rules.{name} is now fxlrp.rules.{_RENAMED[name]}", DeprecationWarning, stacklevel=2)
    return globals()[_RENAMED[name]]

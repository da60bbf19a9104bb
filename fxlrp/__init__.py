"""fxlrp compiles a PyTorch model into the program that explains it."""

import importlib
import os
from typing import TYPE_CHECKING, Any

from fxlrp import deploy, errors, passes, rules, targets
from fxlrp.compiler import compile
from fxlrp.debugging.logs import set_logs, set_logs_of_environment
from fxlrp.explainer import Explainer
from fxlrp.extensions import Extension, rule_for
from fxlrp.inputs import named
from fxlrp.load import load
from fxlrp.optimizations import Optimizations
from fxlrp.rules import presets
from fxlrp.version import __version__

if TYPE_CHECKING:
    from fxlrp import concepts, data, evaluate, show
    from fxlrp.backward.dynamo import backend
    from fxlrp.backward.module import ExplainedModel, autograd
    from fxlrp.bilrp import similarity

__all__ = [
    "ExplainedModel",
    "Explainer",
    "Extension",
    "Optimizations",
    "__version__",
    "autograd",
    "backend",
    "compile",
    "concepts",
    "data",
    "deploy",
    "errors",
    "evaluate",
    "load",
    "named",
    "passes",
    "presets",
    "rule_for",
    "rules",
    "set_logs",
    "show",
    "similarity",
    "targets",
]

# What a compilation does not need is imported when it is first asked for.
_SUBPACKAGES = ("concepts", "data", "evaluate", "show")
_HOMES = {
    "ExplainedModel": "fxlrp.backward.module",
    "autograd": "fxlrp.backward.module",
    "backend": "fxlrp.backward.dynamo",
    "similarity": "fxlrp.bilrp",
}

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name in _SUBPACKAGES:
            return importlib.import_module(f"fxlrp.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'fxlrp' has no attribute {name!r}", name=name)
        found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


set_logs_of_environment(os.environ.get("FXLRP_LOGS"))

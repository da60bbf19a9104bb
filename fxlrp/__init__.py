"""fxlrp compiles a PyTorch model into the program that explains it."""

import importlib
import os
from typing import TYPE_CHECKING, Any

from fxlrp.version import __version__

if TYPE_CHECKING:
    from fxlrp import concepts, data, deploy, errors, evaluate, passes, rules, show, targets
    from fxlrp.backward.dynamo import backend
    from fxlrp.backward.module import ExplainedModel, autograd
    from fxlrp.bilrp import similarity
    from fxlrp.compiler import compile
    from fxlrp.debugging.logs import set_logs
    from fxlrp.explainer import Explainer
    from fxlrp.extensions import Extension, rule_for
    from fxlrp.inputs import named
    from fxlrp.optimizations import Optimizations
    from fxlrp.recipe.load import load
    from fxlrp.rules import presets

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

# Each name is imported when it is first asked for: a process that draws pictures needs no compiler. No function has the
# name of a module in this folder, whose import would put the module in its place.
_MODULES = {
    "presets": "fxlrp.rules.presets",
    **{name: f"fxlrp.{name}" for name in "concepts data deploy errors evaluate passes rules show targets".split()},
}
_HOMES = {
    "ExplainedModel": "fxlrp.backward.module",
    "Explainer": "fxlrp.explainer",
    "Extension": "fxlrp.extensions",
    "Optimizations": "fxlrp.optimizations",
    "autograd": "fxlrp.backward.module",
    "backend": "fxlrp.backward.dynamo",
    "compile": "fxlrp.compiler",
    "load": "fxlrp.recipe.load",
    "named": "fxlrp.inputs",
    "rule_for": "fxlrp.extensions",
    "set_logs": "fxlrp.debugging.logs",
    "similarity": "fxlrp.bilrp",
}

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            found = importlib.import_module(_MODULES[name])
        elif name in _HOMES:
            found = getattr(importlib.import_module(_HOMES[name]), name)
        else:
            raise AttributeError(f"module 'fxlrp' has no attribute {name!r}", name=name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


if "FXLRP_LOGS" in os.environ:
    from fxlrp.debugging.logs import set_logs_of_environment

    set_logs_of_environment(os.environ["FXLRP_LOGS"])

"""fxlrp compiles a PyTorch model into the program that explains it."""

import os

from fxlrp import concepts, deploy, errors, evaluate, passes, rules, show, targets
from fxlrp.backward.dynamo import backend
from fxlrp.backward.module import ExplainedModel, autograd
from fxlrp.bilrp import similarity
from fxlrp.compiler import compile
from fxlrp.debugging.logs import set_logs, set_logs_of_environment
from fxlrp.explainer import Explainer
from fxlrp.extensions import Extension, rule_for
from fxlrp.inputs import named
from fxlrp.load import load
from fxlrp.optimizations import Optimizations
from fxlrp.rules import presets
from fxlrp.version import __version__

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

set_logs_of_environment(os.environ.get("FXLRP_LOGS"))

"""The logs of the compiler, through Python's ``logging``.

The loggers are ``fxlrp.passes``, ``fxlrp.annotate`` and ``fxlrp.emit``. They log at level DEBUG, and render a message
only if the level is enabled.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch import fx

from fxlrp.arguments import flag
from fxlrp.errors import InputError
from fxlrp.printing import table
from fxlrp.printing.code import graph_text, program_text
from fxlrp.program import Program

_ROOT = logging.getLogger("fxlrp")
_LOGS = {name: _ROOT.getChild(name) for name in ("passes", "annotate", "emit")}
_HANDLER = "fxlrp.debugging.logs"


def set_logs(*, passes: bool = False, annotate: bool = False, emit: bool = False) -> None:
    """Choose what the compiler prints to stderr. Logs that are not chosen are disabled.

    The environment variable ``FXLRP_LOGS``, a list such as ``passes,emit``, chooses the logs at import. Applications
    that configure ``logging`` need neither: the loggers ``fxlrp.passes``, ``fxlrp.annotate`` and ``fxlrp.emit`` log at
    level DEBUG.

    Args:
        passes: Print the name of every pass, how often it applied, and the graph after it.
        annotate: Print the annotated graph as a table.
        emit: Print the generated program.

    Raises:
        InputError: An argument is not True or False.

    Example:
        >>> import fxlrp
        >>> fxlrp.set_logs(passes=True)
        >>> fxlrp.set_logs()
    """
    chosen = {"passes": passes, "annotate": annotate, "emit": emit}
    _switch([name for name, is_on in chosen.items() if flag(name, is_on)])


def set_logs_of_environment(variable: str) -> None:
    """Choose the logs that ``FXLRP_LOGS`` names.

    Args:
        variable: The value of the environment variable.

    Raises:
        InputError: It contains an unknown name.
    """
    names = [name.strip() for name in variable.split(",") if name.strip()]
    unknown = [name for name in names if name not in _LOGS]
    if unknown:
        raise InputError(f"FXLRP_LOGS contains the unknown log {unknown[0]!r}; the logs are: {', '.join(_LOGS)}")
    _switch(names)


def _switch(names: Iterable[str]) -> None:
    chosen = set(names)
    for name, logger in _LOGS.items():
        logger.setLevel(logging.DEBUG if name in chosen else logging.NOTSET)
    for handler in [each for each in _ROOT.handlers if each.get_name() == _HANDLER]:
        _ROOT.removeHandler(handler)
    # Handlers that the application has configured would print everything a second time.
    _ROOT.propagate = not chosen
    if chosen:
        handler = logging.StreamHandler()
        handler.set_name(_HANDLER)
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        _ROOT.addHandler(handler)


class PassLog:
    """Logs the stages of one program."""

    def __init__(self) -> None:
        """Start without a graph."""
        self._before = ""

    def __call__(self, stage: str, count: int, program: Program) -> None:
        """Log a stage."""
        if _LOGS["passes"].isEnabledFor(logging.DEBUG):
            self._log_pass(stage, count, program)
        if stage == "annotate" and _LOGS["annotate"].isEnabledFor(logging.DEBUG):
            shapes = {name: spec.shape for name, spec in program.facts.values.items()}
            nodes = [node for node in program.graph.nodes if node.op != "output"]
            _LOGS["annotate"].debug("the annotated graph\n%s", table.render(nodes, program.vocabulary, shapes))

    def _log_pass(self, stage: str, count: int, program: Program) -> None:
        if count == 0:
            _LOGS["passes"].debug("%s: nothing changed", stage)
            return
        text = graph_text(program.graph)
        same = text == self._before
        _LOGS["passes"].debug("%s: %d%s", stage, count, ", the graph is unchanged" if same else f"\n{text}")
        self._before = text


def log_program(graph_module: fx.GraphModule) -> None:
    """Log the generated program."""
    if _LOGS["emit"].isEnabledFor(logging.DEBUG):
        _LOGS["emit"].debug("the generated program\n%s", program_text(graph_module))

"""What the compiler says of its work, through Python's ``logging``.

The loggers are ``fxlrp.passes``, ``fxlrp.annotate`` and ``fxlrp.emit``; all they say is of level DEBUG. Nothing is
rendered that nobody reads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from torch import fx

from fxlrp.errors import InputError
from fxlrp.printing import table
from fxlrp.printing.code import graph_text, program_text
from fxlrp.program import Program

_ROOT = logging.getLogger("fxlrp")
_LOGS = {name: _ROOT.getChild(name) for name in ("passes", "annotate", "emit")}
_HANDLER = "fxlrp.debugging.logs"


def set_logs(*, passes: bool = False, annotate: bool = False, emit: bool = False) -> None:
    """Choose what the compiler prints to stderr: what is not chosen is switched off, so ``set_logs()`` ends it all.

    The environment variable ``FXLRP_LOGS``, a list such as ``passes,emit``, chooses for the start. Whoever configures
    ``logging`` needs neither: the loggers ``fxlrp.passes``, ``fxlrp.annotate`` and ``fxlrp.emit`` speak at level DEBUG.

    Args:
        passes: For every pass its name, how often it applied, and the graph after it.
        annotate: The annotated graph as a table.
        emit: The generated program in the end.

    Example:
        >>> import fxlrp
        >>> fxlrp.set_logs(passes=True)
        >>> fxlrp.set_logs()
    """
    chosen = {"passes": passes, "annotate": annotate, "emit": emit}
    _switch([name for name, is_on in chosen.items() if is_on])


def set_logs_of_environment(variable: str | None) -> None:
    """Choose what ``FXLRP_LOGS`` says; nothing is touched where it is not set.

    Raises:
        InputError: It has a name that is not known.
    """
    if variable is None:
        return
    names = [name.strip() for name in variable.split(",") if name.strip()]
    unknown = [name for name in names if name not in _LOGS]
    if unknown:
        raise InputError(f"FXLRP_LOGS: there is no log {unknown[0]!r}; there are: {', '.join(_LOGS)}")
    _switch(names)


def _switch(names: Iterable[str]) -> None:
    chosen = set(names)
    for name, logger in _LOGS.items():
        logger.setLevel(logging.DEBUG if name in chosen else logging.NOTSET)
    for handler in [each for each in _ROOT.handlers if each.get_name() == _HANDLER]:
        _ROOT.removeHandler(handler)
    # To stderr and nowhere else: what the application has configured would print everything a second time.
    _ROOT.propagate = not chosen
    if chosen:
        handler = logging.StreamHandler()
        handler.set_name(_HANDLER)
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        _ROOT.addHandler(handler)


class PassLog:
    """Logs the stages of one program."""

    def __init__(self) -> None:
        """Begin before the first stage."""
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
        _LOGS["passes"].debug("%s: %d%s", stage, count, ", the graph is as before" if same else f"\n{text}")
        self._before = text


def log_program(graph_module: fx.GraphModule) -> None:
    """Log the generated program."""
    if _LOGS["emit"].isEnabledFor(logging.DEBUG):
        _LOGS["emit"].debug("the generated program\n%s", program_text(graph_module))

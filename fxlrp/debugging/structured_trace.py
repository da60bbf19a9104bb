"""The compiler in PyTorch's structured trace, which ``TORCH_TRACE`` writes and tlparse reads.

While nobody reads the trace, PyTorch drops a record before it is rendered.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch._logging._internal import trace_log, trace_structured

from fxlrp.printing import table
from fxlrp.printing.code import graph_text
from fxlrp.program import Program

_NUMBERS = itertools.count()


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Record how long a step of the compiler takes, also if it fails.

    Args:
        name: The name of the step.
    """
    started = time.time_ns()
    try:
        yield
    finally:
        ended = time.time_ns()
        event = {
            "name": f"fxlrp.{name}",
            "cat": "fxlrp",
            "ph": "X",  # one event with a duration, in microseconds
            "ts": started / 1000,
            "dur": (ended - started) / 1000,
            "pid": 0,  # the row of PyTorch's own events
            "tid": 0,
        }
        trace_structured("chromium_event", payload_fn=lambda: event, expect_trace_id=False)


class GraphTrace:
    """Records the graphs of one program: the captured one, and every graph that a pass has changed."""

    def __init__(self) -> None:
        """Start without a graph."""
        self._number = next(_NUMBERS)
        self._index = 0
        self._before = ""

    def __call__(self, stage: str, count: int, program: Program) -> None:
        """Record a stage."""
        index, self._index = self._index, self._index + 1
        name = f"fxlrp_{self._number}_{index:02}_{stage}"
        if not trace_log.handlers:
            return
        text = graph_text(program.graph)
        if text != self._before:
            self._before = text
            _artifact(name, f"# {type(program.graph_module).__name__} after {stage} ({count})\n{text}")
        if stage == "annotate":
            shapes = {name: spec.shape for name, spec in program.facts.values.items()}
            nodes = [node for node in program.graph.nodes if node.op != "output"]
            _artifact(f"{name}_rules", table.render(nodes, program.vocabulary, shapes))


def _artifact(name: str, text: str) -> None:
    metadata = {"name": name, "encoding": "string"}
    trace_structured("artifact", metadata_fn=lambda: metadata, payload_fn=lambda: text, expect_trace_id=False)

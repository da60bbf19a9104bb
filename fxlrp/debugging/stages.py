"""The recorded stages of a compilation: the captured graph, and the graph after every pass."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import overload

from tabulate import tabulate
from torch import fx

from fxlrp.arguments import shown
from fxlrp.debugging.logs import PassLog
from fxlrp.debugging.structured_trace import GraphTrace
from fxlrp.graph_parts import copied
from fxlrp.printing.code import graph_text
from fxlrp.printing.html import html_table, in_cells
from fxlrp.program import Observer, Program

HEADERS = ("", "stage", "count", "nodes", "lines changed")


@dataclass(frozen=True)
class Stage:
    """The graph after a pass.

    Args:
        name: The name of the pass; "capture" for the graph that the front end made.
        count: How often the pass applied; for the capture the number of nodes.
        graph: A copy of the graph.
        is_forward: Whether the graph computes the model's output. Later graphs compute relevance.
    """

    name: str
    count: int
    graph: fx.Graph = field(repr=False, compare=False)
    is_forward: bool

    @property
    def code(self) -> str:
        """The graph as Python source."""
        return graph_text(self.graph)


class Recorder:
    """Records the stages of one program."""

    def __init__(self) -> None:
        """Start without stages."""
        self.stages: list[Stage] = []

    def __call__(self, stage: str, count: int, program: Program) -> None:
        """Record a stage."""
        self.stages.append(Stage(stage, count, copied(program.graph), "relevance" not in program.properties))


@dataclass(frozen=True)
class Stages(Sequence[Stage]):
    """All stages of a compilation in order, by index or by name.

    ``fxlrp.compile(..., debug=True)`` records them, and :attr:`fxlrp.Explainer.stages` returns them.

    Args:
        stages: The stages.

    Example:
        >>> import torch, fxlrp
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout()).eval()
        >>> stages = fxlrp.compile(model, debug=True).stages
        >>> stages[0].name, stages["remove_identities"].count
        ('capture', 1)
    """

    stages: tuple[Stage, ...]

    def __len__(self) -> int:
        """The number of stages."""
        return len(self.stages)

    @overload
    def __getitem__(self, which: int | str) -> Stage: ...

    @overload
    def __getitem__(self, which: slice) -> tuple[Stage, ...]: ...

    def __getitem__(self, which: int | str | slice) -> Stage | tuple[Stage, ...]:
        """Return a stage.

        Args:
            which: The index of the stage, a slice, or the name of the pass. If the pass ran several times, its name
                means the first run.

        Raises:
            IndexError: The index is out of range.
            KeyError: No pass with this name has run.
        """
        return self.stages[self._index(which) if isinstance(which, str) else which]

    def diff(self, which: int | str) -> str:
        """Return what a pass changed.

        Args:
            which: The index of the stage, or the name of the pass. The capture is compared with an empty graph.

        Returns:
            A unified diff of the code before and after the pass; empty if the pass changed nothing.

        Raises:
            IndexError: The index is out of range.
            KeyError: No pass with this name has run.
        """
        index = range(len(self))[which] if isinstance(which, int) else self._index(which)
        after = self.stages[index]
        before = self.stages[index - 1] if index else None
        lines = difflib.unified_diff(
            before.code.splitlines() if before else [],
            after.code.splitlines(),
            before.name if before else "",
            after.name,
            lineterm="",
        )
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return a table with a row for each stage."""
        return tabulate(self._rows(), headers=HEADERS)

    def _repr_html_(self) -> str:
        return html_table(HEADERS, in_cells(self._rows()), right=("", "count", "nodes"))

    def _rows(self) -> list[tuple[int, str, int, int, str]]:
        return [
            (index, stage.name, stage.count, len(stage.graph.nodes), _changed_lines(self.diff(index)))
            for index, stage in enumerate(self.stages)
        ]

    def _index(self, name: str) -> int:
        names = [stage.name for stage in self.stages]
        if not isinstance(name, str) or name not in names:
            raise KeyError(f"unknown stage {shown(name)}; the stages are: {', '.join(dict.fromkeys(names))}")
        return names.index(name)


def log_and_stages() -> tuple[Observer, ...]:
    """Return the observers of a program whose stages are recorded."""
    return (PassLog(), GraphTrace(), Recorder())


def recorded(program: Program) -> Stages | None:
    """Return the stages that the program's recorder has recorded; None if it does not have a recorder."""
    recorders = [observer for observer in program.observers if isinstance(observer, Recorder)]
    return Stages(tuple(recorders[0].stages)) if recorders else None


def _changed_lines(diff: str) -> str:
    lines = [line[:1] for line in diff.splitlines()[2:]]
    return f"+{lines.count('+')} -{lines.count('-')}" if lines else ""

"""Small changes of source files, by Cosmic Ray."""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names


@dataclass(frozen=True)
class Place:
    """Where an operator of Cosmic Ray changes a file.

    Args:
        file: The file, relative to the root of the repository.
        line: Its line, from 1.
        column: Its column.
        changes: The changes that are possible here: an operator's name, and which of its occurrences in the file.
    """

    file: str
    line: int
    column: int
    changes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Mutant:
    """A changed file."""

    place: Place
    operator: str
    occurrence: int
    before: str
    after: str

    @property
    def name(self) -> str:
        return f"{self.place.file}:{self.place.line}:{self.place.column} {self.operator.removeprefix('core/')}"

    def __str__(self) -> str:
        """The changed lines."""
        pairs = zip(self.before.splitlines(), self.after.splitlines(), strict=False)
        changed = next(((old, new) for old, new in pairs if old != new), ("", ""))
        return f"{self.name}\n  - {changed[0].strip()}\n  + {changed[1].strip()}"


def places(root: Path, files: Sequence[str]) -> Iterator[Place]:
    """All places in the files."""
    operators = {name: get_operator(name) for name in operator_names()}
    for file in files:
        tree = get_ast((root / file).read_text())
        found: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
        for name, operator in operators.items():
            if operator.arguments():
                continue
            positions = (at for node in ast_nodes(tree) for at in operator().mutation_positions(node))
            for occurrence, ((line, column), _) in enumerate(positions):
                found[line, column].append((name, occurrence))
        for (line, column), changes in sorted(found.items()):
            yield Place(file, line, column, tuple(changes))


def sample(root: Path, every: Sequence[Place], seed: int) -> Iterator[Mutant]:
    """One mutant of each place, in random order; none of places where every change is without effect.

    Args:
        root: The root of the repository.
        every: The places.
        seed: Of the order and of the change that is taken at a place.
    """
    choose = random.Random(seed)
    for place in choose.sample(every, len(every)):
        before = (root / place.file).read_text()
        for operator, occurrence in choose.sample(place.changes, len(place.changes)):
            after = mutate_code(before, get_operator(operator)(), occurrence)
            if after is not None and _executed(before) != _executed(after):
                yield Mutant(place, operator, occurrence, before, after)
                break


def _executed(source: str) -> str:
    """What is executed of a source: all but annotations, which stay strings here, and docstrings."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)

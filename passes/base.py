"""What a pass is, and how a list of them is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fxlrp.errors import InternalError
from fxlrp.program import Program


@dataclass(frozen=True)
class Pass:
    """One step of the compiler.

    Args:
        name: For messages.
        run: Changes the program or its facts, and returns how often it applied.
        needs: The properties that earlier passes must have provided.
        provides: The properties that hold afterwards.
    """

    name: str
    run: Callable[[Program], int]
    needs: frozenset[str]
    provides: frozenset[str]

    def __call__(self, program: Program) -> int:
        """Run the pass on ``program``, check the graph, and return the count.

        Raises:
            InternalError: A property that the pass needs is not provided, or the graph is broken afterwards.
        """
        missing = self.needs - program.properties
        if missing:
            raise InternalError(f"the pass {self.name} needs {', '.join(sorted(missing))}: check the order of passes")
        count = self.run(program)
        try:
            program.graph.lint()
        except Exception as error:
            raise InternalError(f"the pass {self.name} left a broken graph: {error}") from error
        program.properties |= self.provides
        return count


def compiler_pass(
    *, needs: Iterable[str] = (), provides: Iterable[str] = ()
) -> Callable[[Callable[[Program], int]], Pass]:
    """Declare a function as a pass."""

    def declare(run: Callable[[Program], int]) -> Pass:
        return Pass(run.__name__, run, frozenset(needs), frozenset(provides))

    return declare


def run_passes(program: Program, passes: Iterable[Pass]) -> Counter[str]:
    """Run ``passes`` in order, and tell the program's observers of each; return how often each applied, by name."""
    counts: Counter[str] = Counter()
    for each in passes:
        count = each(program)
        counts[each.name] += count
        program.tell(each.name, count)
    return counts

"""The definition of a pass, and functions that check and run a list of passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fxlrp.arguments import shown
from fxlrp.debugging.structured_trace import timed
from fxlrp.errors import InputError, InternalError
from fxlrp.program import Program


@dataclass(frozen=True)
class Pass:
    """One step of the compiler.

    Args:
        name: The name of the pass.
        run: A function that changes the program or its facts, and returns how often it applied.
        needs: The properties that earlier passes must have provided.
        provides: The properties that hold afterwards.
        after: The names of passes that, if they run, must not come later than this one.
        before: The names of passes that, if they run, must not come earlier than this one.
        cuts_derivatives: Whether autograd cannot differentiate the program afterwards.
        is_checked: Whether the graph is checked after the pass, and not only after the last one.
    """

    name: str
    run: Callable[[Program], int]
    needs: frozenset[str] = frozenset()
    provides: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()
    cuts_derivatives: bool = False
    is_checked: bool = True

    def __call__(self, program: Program) -> int:
        """Run the pass on ``program``, check the graph if that is due and the pass applied, and return the count.

        Raises:
            InternalError: A property that the pass needs is not provided, or the graph is broken afterwards.
            InputError: The pass does not return a count.
        """
        missing = self.needs - program.properties
        if missing:
            raise InternalError(f"the pass {self.name} needs {', '.join(sorted(missing))}: check the order of passes")
        count = self.run(program)
        if not isinstance(count, int):
            raise InputError(f"the pass {self.name} must return how often it applied, an integer, not {shown(count)}")
        if count and self.is_checked:
            _check_graph(program, f"the pass {self.name} left a broken graph")
        program.properties |= self.provides
        return count


def compiler_pass(
    *,
    needs: Iterable[str] = (),
    provides: Iterable[str] = (),
    after: Iterable[str] = (),
    before: Iterable[str] = (),
    cuts_derivatives: bool = False,
) -> Callable[[Callable[[Program], int]], Pass]:
    """Declare a function as a pass. The arguments are those of :class:`Pass`.

    The function takes the program, changes its graph, facts or annotations, and returns how often it applied.

    Example:
        >>> from fxlrp.passes import compiler_pass
        >>> @compiler_pass(after=["annotate"], before=["emit_relevance"])
        ... def count_nodes(program):
        ...     return len(program.graph.nodes)
        >>> count_nodes.name
        'count_nodes'
    """

    def declare(run: Callable[[Program], int]) -> Pass:
        return Pass(
            run.__name__,
            run,
            needs=frozenset(needs),
            provides=frozenset(provides),
            after=frozenset(after),
            before=frozenset(before),
            cuts_derivatives=cuts_derivatives,
        )

    return declare


def check_order(passes: Sequence[Pass]) -> None:
    """Check that no pass runs too early or too late.

    Raises:
        InternalError: A property is needed before it is provided, or two passes are in the wrong order.
    """
    provided: set[str] = set()
    names = [each.name for each in passes]
    for index, each in enumerate(passes):
        missing = each.needs - provided
        if missing:
            raise InternalError(
                f"the pass {each.name} needs {', '.join(sorted(missing))}, which no earlier pass provides"
            )
        late = each.after.intersection(names[index + 1 :])
        early = each.before.intersection(names[:index])
        if late or early:
            first, second = (each.name, min(late)) if late else (min(early), each.name)
            raise InternalError(f"the pass {first} must not come before the pass {second}")
        provided |= each.provides


def run_passes(program: Program, passes: Iterable[Pass]) -> Counter[str]:
    """Run ``passes`` in order, and notify the observers of each; return how often each applied, by name."""
    counts: Counter[str] = Counter()
    for each in passes:
        with timed(each.name):
            count = each(program)
        counts[each.name] += count
        program.tell(each.name, count)
    _check_graph(program, "the passes left a broken graph; compile with debug=True to see which")
    return counts


def _check_graph(program: Program, failure: str) -> None:
    """Check that a graph is well formed. This reads the whole graph, and takes as long as a simple pass."""
    try:
        program.graph.lint()
    except Exception as error:
        raise InternalError(f"{failure}: {error}") from error

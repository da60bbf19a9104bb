"""Find the inputs that reach the output only through operations that cannot carry relevance to them.

A remainder, a comparison, a cast, a lookup in a table that is not an embedding: the output depends on the input there,
but no relevance can go back. An input that only selects or scales what other inputs contribute loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch import fx

from fxlrp.errors import InternalError
from fxlrp.operation import Family, Operation
from fxlrp.program import Program

# A constant factor scales the relevance of the other one, and has none to lose.
_SCALES = (Family.PRODUCT, Family.MATMUL)

# Whether a node cannot carry relevance, although its value depends on an input.
Rounds = Callable[[fx.Node], bool]
# The operands of a node to which the relevance of tokens passes.
Passes = Callable[[fx.Node], Collection[fx.Node]]


def sources_of(node: fx.Node, operation: Operation | None) -> Sequence[fx.Node]:
    """The nodes whose dependence ``node`` inherits: all arguments except parameters without relevance."""
    if operation is None:
        return node.all_input_nodes
    if operation.family is Family.NO_RELEVANCE:
        return ()
    if operation.token_operand is not None:
        tokens = operation.arguments(node)[operation.token_operand]
        return (tokens,) if isinstance(tokens, fx.Node) else ()
    found: list[fx.Node] = []
    for name, value in operation.arguments(node).items():
        if name not in operation.without_relevance:
            fx.map_arg(value, found.append)
    return found


def losses(
    program: Program, inputs: Collection[fx.Node], rounds: Rounds, passes: Passes
) -> tuple[dict[fx.Node, fx.Node], dict[fx.Node, fx.Node]]:
    """Find what inputs lose, with the first operation on the way that cannot carry relevance.

    Args:
        program: The program, whose dependence is known.
        inputs: The inputs that are to be explained.
        rounds: Whether a node converts real numbers to integers.
        passes: The operands of a node whose integers it moves or maps one to one.

    Returns:
        The inputs that receive no relevance at all, and those that receive some, but not on every way.
    """
    carried = _leading_to_output(program, lambda _: False)
    unrounded = _leading_to_output(program, rounds)
    whole: dict[fx.Node, fx.Node] = {}
    partial: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        if node in carried and node not in unrounded:
            whole[node] = _first_rounding(node, carried, rounds)
            continue
        through = _lost_through(program, node, carried, rounds, passes)
        if through is not None:
            (partial if node in carried else whole)[node] = through
    return whole, partial


def _leading_to_output(program: Program, stops: Rounds) -> set[fx.Node]:
    """The nodes that depend on an input, from which a way leads to an output that does not pass where it stops."""
    dependent = program.facts.dependent
    found = {node for node in program.outputs if node in dependent}
    for node in reversed(program.graph.nodes):
        if node in found and not stops(node):
            found.update(each for each in sources_of(node, program.vocabulary.operation(node)) if each in dependent)
    return found


def _first_rounding(start: fx.Node, carried: set[fx.Node], rounds: Rounds) -> fx.Node:
    waiting = [start]
    for node in waiting:
        if rounds(node):
            return node
        waiting.extend(user for user in node.users if user in carried and user not in waiting)
    raise InternalError(f"no operation rounds {start.name!r}")


def _lost_through(
    program: Program, start: fx.Node, carried: set[fx.Node], rounds: Rounds, passes: Passes
) -> fx.Node | None:
    """The first operation that cannot carry relevance, on a way from an input to where its share is lost."""
    # The values that depend on the input and receive no relevance, with the first operation that cannot carry it if the
    # input consists of real numbers, and the first if it consists of integers: often it is not known.
    influenced: dict[fx.Node, tuple[fx.Node | None, fx.Node | None]] = {start: (None, None)}
    for node in program.graph.nodes:
        used = [source for source in node.all_input_nodes if source in influenced]
        operation = program.vocabulary.operation(node)
        if node.op == "output" or not used or (operation is not None and operation.ignores_values):
            continue
        if node in carried:
            lost = [source for source in used if source not in carried and _absorbs(program, node, operation, source)]
            if lost:
                return _named(program, influenced[lost[0]]) or node
            continue
        passed = not set(used).isdisjoint(passes(node))
        is_followed = passed or (node in program.facts.dependent and operation is not None)
        carries = (is_followed and not rounds(node), passed)
        known = [next((through for source in used if (through := influenced[source][index])), None) for index in (0, 1)]
        of_numbers, of_integers = (known[index] or (None if carries[index] else node) for index in (0, 1))
        influenced[node] = (of_numbers, of_integers)
    for result in program.outputs:
        operation = program.vocabulary.operation(result)
        # An output of truth values or indices cannot be explained, whatever its input is.
        is_number = operation is None or operation.family is not Family.NO_RELEVANCE
        if result in influenced and result not in carried and is_number:
            return _named(program, influenced[result]) or result
    return None


def _named(program: Program, through: tuple[fx.Node | None, fx.Node | None]) -> fx.Node | None:
    """The operation to name: a table reads integers, so what comes before it is to blame."""
    of_numbers, of_integers = through
    operation = None if of_numbers is None else program.vocabulary.operation(of_numbers)
    reads_integers = operation is not None and operation.token_operand is not None
    return of_integers if reads_integers and of_integers is not None else of_numbers


def _absorbs(program: Program, node: fx.Node, operation: Operation | None, source: fx.Node) -> bool:
    """Whether a value without relevance takes part in a result as a summand or an element, not as a mask or factor."""
    if operation is None:
        return True
    if operation.family in _SCALES or source not in operation.operands_of(node):
        return False
    arguments = operation.arguments(node)
    if operation.mask_operand is not None and arguments[operation.mask_operand] is source:
        return False
    return not (operation.family is Family.SUM and _are_scores(program, node))


def _are_scores(program: Program, node: fx.Node) -> bool:
    """Whether only a softmax reads a sum, in the end: what is added to its scores is a mask."""
    users = [(user, program.vocabulary.operation(user)) for user in node.users]
    return bool(users) and all(
        operation is not None
        and (
            operation.family is Family.SOFTMAX
            or ((operation.moves or operation.family is Family.SUM) and _are_scores(program, user))
        )
        for user, operation in users
    )

"""Find the nodes whose value depends on an input through tensors. Relevance can reach only these nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import fx

from fxlrp.errors import CaptureError
from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program


@compiler_pass(needs=["decomposed"], provides=["dependence"])
def infer_dependence(program: Program) -> int:
    """Follow the inputs forward, up to operations that carry no relevance; return how many nodes depend on them.

    Integers are indices, sizes and truth values: relevance ends there, except at the tokens that an embedding reads.
    The result of an unknown operation, such as a cast to integers, depends on an input if an argument does.

    Raises:
        CaptureError: No output is a tensor that depends on an input.
    """
    tokens = _tokens(program)
    dependent: set[fx.Node] = set(tokens)
    for node in program.graph.nodes:
        floating = _may_be_floating(program, node)
        if node in tokens or (node.op == "placeholder" and not floating):
            continue
        operation = program.vocabulary.operation(node)
        if operation is not None and operation.token_operand is not None:
            depends = operation.arguments(node)[operation.token_operand] in tokens
        else:
            sources = sources_of(node, operation)
            if not floating and operation is not None:
                sources = [source for source in sources if not _may_be_floating(program, source)]
            depends = node.op == "placeholder" or any(each in dependent and each not in tokens for each in sources)
        if depends:
            dependent.add(node)
    _check_outputs(program, dependent)
    facts = program.facts
    facts.dependent, facts.tokens, facts.masks = map(frozenset, (dependent, tokens, _masks(program)))
    return len(dependent)


def _may_be_floating(program: Program, node: fx.Node) -> bool:
    """Whether a value may contain real numbers, as far as is known."""
    value = program.facts.values.get(node.name)
    return value is None or value.is_floating


def _tokens(program: Program) -> set[fx.Node]:
    """Inputs that select rows of a table, and the operations on the way there, which only move their elements."""
    reads = _moved_to(program, lambda operation: operation.token_operand)
    inputs = {node for node in reads if node.op == "placeholder"}
    values = program.facts.values
    tokens = {node for node in inputs if node.name not in values or not values[node.name].is_floating}
    for node in program.graph.nodes:
        operation = program.vocabulary.operation(node)
        moves = operation is not None and node in reads and operation.moves
        if operation is not None and moves and any(operand in tokens for operand in operation.operands_of(node)):
            tokens.add(node)
    return tokens


def _masks(program: Program) -> set[fx.Node]:
    """Inputs that only attention reads, as its mask. They may contain numbers or truth values."""
    reads = _moved_to(program, lambda operation: operation.mask_operand)
    return {node for node in reads if node.op == "placeholder" and _only_masks(program, node, reads)}


def _only_masks(program: Program, node: fx.Node, reads: set[fx.Node]) -> bool:
    for user in node.users:
        operation = program.vocabulary.operation(user)
        if operation is not None and operation.mask_operand is not None:
            others = {**operation.arguments(user), operation.mask_operand: None}
            is_mask = node not in others.values()
        else:
            is_mask = False
        if not (is_mask or (user in reads and _only_masks(program, user, reads))):
            return False
    return True


def _moved_to(program: Program, parameter: Callable[[Operation], str | None]) -> set[fx.Node]:
    """The values that operations take for a parameter, and the operations before them that only move elements."""
    reads: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        operation = program.vocabulary.operation(node)
        if operation is None:
            continue
        name = parameter(operation)
        if name is not None:
            value = operation.arguments(node)[name]
            reads.update((value,) if isinstance(value, fx.Node) else ())
        elif node in reads and operation.moves:
            reads.update(operand for operand in operation.operands_of(node) if isinstance(operand, fx.Node))
    return reads


def sources_of(node: fx.Node, operation: Operation | None) -> Sequence[fx.Node]:
    """The nodes whose dependence ``node`` inherits: all arguments except parameters without relevance."""
    if operation is None:
        return node.all_input_nodes
    if operation.family is Family.NO_RELEVANCE:
        return ()
    found: list[fx.Node] = []
    for name, value in operation.arguments(node).items():
        if name not in operation.without_relevance:
            fx.map_arg(value, found.append)
    return found


def _check_outputs(program: Program, dependent: set[fx.Node]) -> None:
    for result in program.outputs:
        operation = program.vocabulary.operation(result)
        if operation is not None and operation.multiple_results:
            raise CaptureError(f"the model returns all results of {operation.name}: return one of them")
    if dependent.isdisjoint(program.outputs):
        raise CaptureError(
            "no relevance can flow from the model's output to an input: the output is a constant, or depends on the "
            "inputs only through shapes, comparisons, indices or denominators"
        )

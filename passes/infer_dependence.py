"""Find the nodes whose value depends on an input through tensors. Relevance can reach only these nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch import fx

from fxlrp.errors import CaptureError, LostInputError
from fxlrp.lost_inputs import losses, sources_of
from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program, input_name, inputs_among
from fxlrp.provenance import describe


@compiler_pass(needs=["decomposed"], provides=["dependence"])
def infer_dependence(program: Program) -> int:
    """Follow the inputs forward, up to operations that carry no relevance; return how many nodes depend on them.

    Integers are indices, sizes and truth values: relevance ends there, except at the tokens that an embedding reads.
    Inputs that are declared constants count as parameters. The result of an unknown operation depends on an input if an
    argument does.

    Raises:
        CaptureError: No output is a tensor that depends on an input.
        LostInputError: The output depends on the inputs only through operations that cannot carry relevance.
    """
    facts = program.facts
    explained = [node for node in inputs_among(list(program.graph.nodes)) if not _is_declared(program, node)]
    constants = _constants(program)
    tokens = _tokens(program, constants)
    dependent: set[fx.Node] = set(tokens)
    for node in program.graph.nodes:
        is_input = node in explained and _may_be_floating(program, node)
        if node in tokens or (node.op == "placeholder" and not is_input):
            continue
        operation = program.vocabulary.operation(node)
        sources = sources_of(node, operation)
        if operation is not None and not (_may_be_floating(program, node) or _rounds(program, node)):
            sources = [source for source in sources if not _may_be_floating(program, source)]
        is_table = operation is not None and operation.token_operand is not None
        if node.op == "placeholder" or any(each in dependent and (each in tokens) == is_table for each in sources):
            dependent.add(node)
    facts.dependent, facts.tokens, facts.masks = map(frozenset, (dependent, tokens, _masks(program)))
    facts.mapped_tokens = frozenset(node for node in tokens if _mapped(program, node, constants))
    facts.lost, facts.partly_lost = losses(
        program,
        explained,
        lambda node: node not in tokens and _rounds(program, node),
        lambda node: _passes_tokens(program, node, constants),
    )
    _check_outputs(program)
    return len(dependent)


def lost_message(program: Program) -> str:
    """The message for inputs that receive no relevance, with the operations that cannot carry it."""
    lost = program.facts.lost
    lines = "\n".join(f"  {node.target}: through the {described(program, through)}" for node, through in lost.items())
    names = ", ".join(repr(str(node.target)) for node in lost)
    several = len(lost) > 1
    return (
        f"{'inputs reach' if several else 'an input reaches'} the output only through operations that cannot carry "
        f"relevance:\n{lines}\nIf {'they are' if several else 'it is'} not to be explained, pass constants=[{names}]"
    )


def described(program: Program, node: fx.Node) -> str:
    """Describe a node by its canonical operation."""
    operation = program.vocabulary.operation(node)
    return describe(node, operation.name if operation else None)


def _is_declared(program: Program, node: fx.Node) -> bool:
    return node.op == "placeholder" and input_name(node) in program.options.constants


def _may_be_floating(program: Program, node: fx.Node) -> bool:
    """Whether a value may contain real numbers, as far as is known."""
    value = program.facts.values.get(node.name)
    return value is None or value.is_floating


def _rounds(program: Program, node: fx.Node) -> bool:
    """Whether a call converts numbers that may be real to integers."""
    operation = program.vocabulary.operation(node)
    if operation is None:
        return False
    operands = [each for each in operation.operands_of(node) if isinstance(each, fx.Node)]
    if not any(_may_be_floating(program, each) for each in operands):
        return False
    if operation.tells(operation.makes_integers, operation.arguments(node)):
        return True
    are_known = all(each.name in program.facts.values for each in operands)
    return operation.moves and are_known and not _may_be_floating(program, node)


def _constants(program: Program) -> set[fx.Node]:
    """The values that are the same for all values of the inputs that are to be explained."""
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        operation = program.vocabulary.operation(node)
        is_computed = node.op in ("call_function", "call_method") and found.issuperset(node.all_input_nodes)
        of_sizes = operation is not None and operation.ignores_values
        if node.op == "get_attr" or is_computed or of_sizes or _is_declared(program, node):
            found.add(node)
    return found


def _mapped(program: Program, node: fx.Node, constants: Collection[fx.Node]) -> list[fx.Node]:
    """The operand whose integers a node maps one to one, if it does."""
    operation = program.vocabulary.operation(node)
    if operation is None or not operation.tells(operation.maps_tokens, operation.arguments(node), constants):
        return []
    varying = [each for each in operation.operands_of(node) if isinstance(each, fx.Node) and each not in constants]
    others = [each for each in node.all_input_nodes if each not in varying]
    if operation.moves and not operation.keeps_elements and others and all(each in constants for each in others):
        # A fixed mask replaces elements whatever they are.
        return []
    return varying if all(_is_compared(program, each, varying, constants) for each in others) else []


def _is_compared(program: Program, node: fx.Node, tokens: Sequence[fx.Node], constants: Collection[fx.Node]) -> bool:
    """Whether a value is constant, or compares tokens with constants."""
    if node in constants:
        return True
    operation = program.vocabulary.operation(node)
    return (
        operation is not None
        and operation.family is Family.NO_RELEVANCE
        and all(each in tokens or _is_compared(program, each, tokens, constants) for each in node.all_input_nodes)
    )


def _passes_tokens(program: Program, node: fx.Node, constants: Collection[fx.Node]) -> Sequence[fx.Node]:
    """The operands whose integers a node moves or maps one to one."""
    operation = program.vocabulary.operation(node)
    if operation is None:
        return []
    mapped = _mapped(program, node, constants)
    if mapped or operation.tells(operation.makes_integers, operation.arguments(node)):
        return mapped
    return _moved(program, node)


def _tokens(program: Program, constants: Collection[fx.Node]) -> set[fx.Node]:
    """Inputs that select rows of a table, and the operations on the way there, which map them one to one."""
    reads = _leading_to(
        program, lambda operation: operation.token_operand, lambda node: _passes_tokens(program, node, constants)
    )
    values = program.facts.values
    tokens = {
        node
        for node in reads
        if node.op == "placeholder"
        and not _is_declared(program, node)
        and (node.name not in values or not values[node.name].is_floating)
    }
    for node in program.graph.nodes:
        if node in reads and not tokens.isdisjoint(_passes_tokens(program, node, constants)):
            tokens.add(node)
    return tokens


def _masks(program: Program) -> set[fx.Node]:
    """Inputs that only attention reads, as its mask. They may contain numbers or truth values."""
    reads = _leading_to(program, lambda operation: operation.mask_operand, lambda node: _moved(program, node))
    return {node for node in reads if node.op == "placeholder" and _only_masks(program, node, reads)}


def _moved(program: Program, node: fx.Node) -> list[fx.Node]:
    operation = program.vocabulary.operation(node)
    operands = operation.operands_of(node) if operation is not None and operation.moves else ()
    return [operand for operand in operands if isinstance(operand, fx.Node)]


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


def _leading_to(
    program: Program,
    parameter: Callable[[Operation], str | None],
    passed: Callable[[fx.Node], Collection[fx.Node]],
) -> set[fx.Node]:
    """The values that operations take for a parameter, and those before them that reach it through other operations."""
    reads: set[fx.Node] = set()
    for node in reversed(program.graph.nodes):
        operation = program.vocabulary.operation(node)
        if operation is None:
            continue
        name = parameter(operation)
        if name is not None:
            value = operation.arguments(node)[name]
            reads.update((value,) if isinstance(value, fx.Node) else ())
        elif node in reads:
            reads.update(passed(node))
    return reads


def _check_outputs(program: Program) -> None:
    for result in program.outputs:
        operation = program.vocabulary.operation(result)
        if operation is not None and operation.multiple_results:
            raise CaptureError(f"the model returns all results of {operation.name}: return one of them")
    if not program.facts.dependent.isdisjoint(program.outputs):
        return
    if program.facts.lost:
        raise LostInputError(lost_message(program))
    raise CaptureError(
        "no relevance can flow from the model's output to an input: the output is a constant, or depends on the "
        "inputs only through shapes, comparisons, indices or denominators"
    )

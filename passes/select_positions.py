"""Compute only the positions of a sequence that the target selects, from where positions no longer mix.

Behind the last attention of a language model every position is computed by itself: the last gated MLP, the norms and
the head. If the target selects one position, the others need not be computed, and have no relevance. The annotated
graph remains that of the model. If the output is returned, copies compute all positions of it.
"""

from __future__ import annotations

from torch import fx

from fxlrp.functions import at_positions
from fxlrp.graph_parts import copied, reads_type
from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.places import requested
from fxlrp.program import ANNOTATION, Annotation, Program, inputs_among, receivers
from fxlrp.provenance import provenance
from fxlrp.relevance.positions import asked_positions
from fxlrp.rules.specs import PassThrough


@compiler_pass(needs=["annotated"], after=["carry_quotients", "infer_finite"], before=["emit_relevance"])
def select_positions(program: Program) -> int:
    """Select positions of the values behind which they do not mix; return how many values these are."""
    rows = _separate_rows(program)
    if not any(_is_dense(program, node) for node in rows) or requested(program).intersection(rows):
        return 0
    program.annotated = copied(program.graph)
    (output,) = program.outputs
    if program.options.question.returns_output:
        program.facts.whole = _copied(program, rows)
    read = dict.fromkeys(source for node in program.graph.nodes if node in rows for source in _rows_read(program, node))
    values = [value for value in read if value not in rows]
    with_relevance = {value for node in rows for value in receivers(node, program.vocabulary)}
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    first, *others = sorted(values, key=order.__getitem__)
    with program.graph.inserting_after(_last_input(program) if first.op == "placeholder" else first):
        classes = program.facts.values[output.name].shape[-1]
        positions = program.graph.call_function(asked_positions, (first, classes))
        positions._rename("positions")
    for value in (first, *others):
        is_input = value is first or value.op == "placeholder"
        with program.graph.inserting_after(positions if is_input else value):
            selected = _selected(program, value, positions, value in with_relevance)
        value.replace_all_uses_with(selected, lambda user: user in rows)
    program.facts.positions = positions
    return len(values)


def _copied(program: Program, rows: set[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Copy nodes without their annotation, and return the copy of the output. The names become those of the copies."""
    copies: dict[fx.Node, fx.Node] = {}
    output, names, values = program.graph.output_node(), program.graph._graph_namespace, program.facts.values
    with program.graph.inserting_before(output):
        for node in list(program.graph.nodes):
            if node in rows:
                copies[node] = program.graph.node_copy(node, lambda read: copies.get(read, read))
                copies[node].meta.pop(ANNOTATION, None)
                name = node.name
                node._rename(f"{name}_at_positions")
                copies[node].name = name
                names._rename_object(copies[node], name)
    known = {node.name: values[copied.name] for node, copied in copies.items() if copied.name in values}
    program.facts.values = {**values, **known}
    output.args = fx.map_arg(output.args, lambda node: copies[node])
    return copies


def _separate_rows(program: Program) -> set[fx.Node]:
    """The nodes back from the output that compute every position from the same position of what they read.

    All their users are among them, so that nothing else reads the positions that are left out. What reads only the type
    of a value is among them, too.
    """
    (output,) = program.outputs
    found: set[fx.Node] = set()
    spec = program.facts.values.get(output.name)
    # In examples of one position, values of all positions look like those of each.
    if spec is None or len(spec.shape) != 3 or spec.shape[1] == 1:
        return found
    for node in reversed(program.graph.nodes):
        is_read_only_here = node is output or (bool(node.users) and found.issuperset(node.users))
        depends = node in program.facts.dependent
        if is_read_only_here and (reads_type(node) or (depends and _keeps_rows(program, node, spec.shape[:2]))):
            found.add(node)
    return found if output in found else set()


def _last_input(program: Program) -> fx.Node:
    return inputs_among(list(program.graph.nodes))[-1]


def _is_dense(program: Program, node: fx.Node) -> bool:
    """Whether a node is a dense layer, which is worth the selection."""
    operation = program.vocabulary.operation(node)
    return operation is not None and operation.family is Family.LINEAR


def _keeps_rows(program: Program, node: fx.Node, leading: tuple[int, ...]) -> bool:
    """Whether a position and its relevance depend on the same position of the operands and of the result."""
    operation = program.vocabulary.operation(node)
    if operation is None or not operation.tells(operation.rowwise, operation.arguments(node)):
        return False
    annotated = node.meta.get(ANNOTATION)
    if annotated is not None and not annotated.rule.rowwise:
        return False
    values = program.facts.values
    for value in (node, *operation.operands_of(node)):
        spec = values.get(value.name) if isinstance(value, fx.Node) else None
        if value in program.facts.dependent or value is node:
            if spec is None or len(spec.shape) != 3 or spec.shape[:2] != leading:
                return False
        elif isinstance(value, fx.Node) and (spec is None or any(size != 1 for size in spec.shape[:-1][-2:])):
            return False
    return True


def _rows_read(program: Program, node: fx.Node) -> list[fx.Node]:
    """The operands of which a node reads rows."""
    operation = program.vocabulary.operation(node)
    if operation is None:
        return []  # reads the type of a value, which is that of its rows
    operands = operation.operands_of(node)
    return [each for each in operands if isinstance(each, fx.Node) and each in program.facts.dependent]


def _selected(program: Program, value: fx.Node, positions: fx.Node, receives: bool) -> fx.Node:
    """Select the positions of a value, with what is known of it."""
    made = program.graph.call_function(at_positions, (value, positions))
    # The selection does not belong to the module of the value, whose output is the value itself.
    made.meta = {key: known for key, known in provenance(value).items() if key != "nn_module_stack"}
    made._rename(f"{value.name}_at_positions")
    facts = program.facts
    facts.dependent |= {made}
    facts.quotients |= {made}
    facts.values = {**facts.values, made.name: facts.values[value.name]}
    if value in facts.finite:
        facts.finite |= {made}
    if receives:
        made.meta[ANNOTATION] = Annotation(PassThrough(), (0,), "select_positions", "the positions of the target")
    return made

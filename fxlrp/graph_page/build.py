"""From the annotated graph of an explainer to what a page shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

from torch import fx

from fxlrp.answer import Answer
from fxlrp.debugging.relevances import NodeRelevance, Relevances
from fxlrp.explanation import Explanation
from fxlrp.graph_page.data import Balance, Edge, Graph, Kind, Node, RuleEntry
from fxlrp.graph_page.groups import Grouping, grouping
from fxlrp.printing.rows import constants_among, nodes_reached, operation_of, reason_of
from fxlrp.program import annotation, nodes_by_name, operation_under
from fxlrp.provenance import MODEL, module_stack, source_line
from fxlrp.rules.specs import PassThrough
from fxlrp.vocabulary.lookup import Vocabulary

GREY = -1


def annotated_graph(
    title: str,
    made: Explanation,
    answer: Answer,
    shapes: Mapping[str, tuple[int, ...]],
    relevances: Relevances | None,
) -> Graph:
    """Return what a page shows of an annotated graph.

    Args:
        title: The name of the model.
        made: The results of the compilation.
        answer: The program whose annotated graph is shown.
        shapes: The known shapes of values, by the names of their nodes.
        relevances: The relevance of every node, if the explainer was called.
    """
    vocabulary = made.vocabulary
    constants = constants_among(answer.nodes)
    shown = [node for node in answer.nodes if node not in constants]
    reached = nodes_reached(answer.nodes, vocabulary)
    aside = _aside(made, shown, reached)
    groups = grouping(shown, aside)
    # A value of `at=` through which relevance passes to another one is there twice: first as a node that passes it on.
    found = {each.node: each for each in reversed(relevances.nodes)} if relevances else {}
    explained = relevances.explained if relevances else None
    shape = {name: "x".join(map(str, sizes)) for name, sizes in shapes.items()}
    nodes = [
        _node(
            node,
            vocabulary,
            groups,
            shape,
            is_reached=node in reached,
            is_aside=node in aside,
            parameters=_parameters(node, constants, shape),
            relevance=found.get(node.name),
        )
        for node in shown
    ]
    start = nodes_by_name(answer.annotated)[answer.interface.explained]
    end = answer.annotated.output_node().name
    edges = [edge for node in shown for edge in _edges(node, vocabulary, constants, found.get(node.name))]
    return Graph(
        title,
        _rules(shown),
        groups.groups,
        (*nodes, _output(end, shape.get(start.name, ""), explained)),
        (*edges, Edge(start.name, end, 0, True, explained)),
        explained,
        relevances.at_inputs if relevances else None,
        answer.question.at,
    )


def _aside(made: Explanation, shown: Sequence[fx.Node], reached: Set[fx.Node]) -> frozenset[fx.Node]:
    """The nodes without relevance that are sizes or constants, or that nothing in the forward graph reads."""
    before = nodes_by_name(made.program.graph)
    dependent = {node.name for node in made.program.facts.dependent}
    return frozenset(
        node
        for node in shown
        if node.op != "placeholder"
        and node not in reached
        and (not node.users or (node.name in before and node.name not in dependent))
    )


def _node(
    node: fx.Node,
    vocabulary: Vocabulary,
    groups: Grouping,
    shapes: Mapping[str, str],
    *,
    is_reached: bool,
    is_aside: bool,
    parameters: tuple[str, ...],
    relevance: NodeRelevance | None,
) -> Node:
    operation, stack, annotated = operation_of(node, vocabulary), module_stack(node), annotation(node)
    is_input = node.op == "placeholder"
    group = groups.of_node[node]
    path, cls = stack[-1] if stack else ("", None)
    return Node(
        id=node.name,
        kind=Kind.INPUT if is_input else Kind.OPERATION,
        label=node.name if is_input else groups.labels.get(node, operation),
        operation=operation,
        group=group.id if group else None,
        path=path,
        module=cls.__name__ if cls else "",
        rule=str(annotated.rule) if annotated else None,
        why=reason_of(node, is_reached),
        source=source_line(node),
        shape=shapes.get(node.name, ""),
        parameters=parameters,
        is_reached=is_reached,
        is_aside=is_aside,
        balance=_balance(relevance) if relevance else None,
    )


def _parameters(node: fx.Node, constants: Set[fx.Node], shapes: Mapping[str, str]) -> tuple[str, ...]:
    """The parameters that a node reads itself or through values that are computed from them, with their shapes."""
    found: dict[str, None] = {}
    waiting = [each for each in node.all_input_nodes if each in constants]
    while waiting:
        each = waiting.pop(0)
        if each.op == "get_attr":
            found[f"{str(each.target).removeprefix(f'{MODEL}.')} {shapes.get(each.name, '')}".strip()] = None
        waiting += each.all_input_nodes
    return tuple(found)


def _balance(relevance: NodeRelevance) -> Balance:
    return Balance(
        relevance.received.sum,
        relevance.passed_on,
        relevance.absorbed,
        relevance.bias,
        relevance.stabilizer,
        relevance.zeros,
    )


def _output(name: str, shape: str, explained: float | None) -> Node:
    return Node(
        id=name,
        kind=Kind.OUTPUT,
        label="explained output",
        operation="output",
        group=None,
        path="",
        module="",
        rule=None,
        why="relevance starts here",
        source="",
        shape=shape,
        parameters=(),
        is_reached=True,
        is_aside=False,
        balance=None if explained is None else Balance(explained, explained, 0.0, None, None, None),
    )


def _edges(
    node: fx.Node, vocabulary: Vocabulary, constants: Set[fx.Node], relevance: NodeRelevance | None
) -> list[Edge]:
    """An edge for each operand, and one for each other value that the node reads."""
    operation, annotated = vocabulary.operation(node), annotation(node)
    carries = annotated.carries if annotated else ()
    if annotated is not None and operation is not None:
        operation = operation_under(operation, annotated.rule)
    operands = operation.operands_of(node) if operation else ()
    passed = dict(zip(carries, relevance.passed_to, strict=True)) if relevance and relevance.passed_to else {}
    edges = [
        Edge(each.name, node.name, position, position in carries, passed[position][1] if position in passed else None)
        for position, each in enumerate(operands)
        if isinstance(each, fx.Node) and each not in constants
    ]
    others = [each for each in node.all_input_nodes if each not in operands and each not in constants]
    return [*edges, *(Edge(each.name, node.name, None, False, None) for each in others)]


def _rules(nodes: Sequence[fx.Node]) -> tuple[RuleEntry, ...]:
    """The rules, the most frequent first. The rule that changes nothing is grey, so that the others stand out."""
    annotations = [annotated for node in nodes if (annotated := annotation(node))]
    counts = Counter(str(each.rule) for each in annotations)
    grey = {str(each.rule) for each in annotations if isinstance(each.rule, PassThrough)}
    colored = [rule for rule, _ in counts.most_common() if rule not in grey]
    return tuple(
        RuleEntry(rule, count, GREY if rule in grey else colored.index(rule)) for rule, count in counts.most_common()
    )

"""The program under compilation: its graph, options, facts, and emitted relevance steps."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import fx

from fxlrp.interface import Interface
from fxlrp.operation import Operation
from fxlrp.question import Question
from fxlrp.rules.preset import Preset
from fxlrp.rules.rule import Rule
from fxlrp.shapes import InputSpec
from fxlrp.vocabulary.lookup import Vocabulary

ANNOTATION = "fxlrp"
# Marks a node of a relevance step that computes a size, not a tensor.
SIZE = "fxlrp_size"
REASON = "fxlrp_reason"
"""The key under which the metadata of an input says why it receives no relevance, or not on every way."""
INPUT_NAME = "fxlrp_input"


@dataclass(frozen=True)
class Annotation:
    """The rule of a forward node, under ``node.meta["fxlrp"]``.

    Args:
        rule: The rule.
        carries: The operand positions that receive relevance.
        origin: What chose the rule: a preset, a user-defined pair, or a default.
        reason: Why this rule was chosen, and why these operands receive relevance.
    """

    rule: Rule
    carries: tuple[int, ...]
    origin: str
    reason: str


def annotation(node: fx.Node) -> Annotation | None:
    """The node's annotation; None where no relevance flows."""
    found = node.meta.get(ANNOTATION)
    return found if isinstance(found, Annotation) else None


@dataclass(frozen=True)
class Relevance:
    """The relevance of a value, or its quotient by another value: ``relevance = base * factor``.

    Args:
        factor: The relevance itself, or the factor of ``base``.
        base: The value, or its activation; None if ``factor`` is the relevance.
    """

    factor: fx.Node
    base: fx.Node | None = None


@dataclass(frozen=True)
class Flow:
    """The relevance that a step received for results of the node, and passed to each operand.

    Args:
        received: The relevance of each result that received any.
        passed_on: The relevance that each operand receives.
        results: The positions of these results; None for that of an operation with one result.
    """

    received: tuple[Relevance, ...]
    passed_on: tuple[Relevance, ...]
    results: tuple[int | None, ...] = (None,)


def operation_under(operation: Operation, rule: Rule) -> Operation:
    """The operation of which a rule sees the operands: under a derivative nothing is held constant."""
    return operation.with_held() if rule.differentiates and operation.held_constant else operation


def receivers(node: fx.Node, vocabulary: Vocabulary) -> tuple[fx.Node, ...]:
    """The nodes to which ``node`` passes relevance, with repetitions; none if no relevance reaches it."""
    annotated, operation = annotation(node), vocabulary.operation(node)
    if annotated is None or operation is None:
        return ()
    operands = operation_under(operation, annotated.rule).operands_of(node)
    return tuple(operands[position] for position in annotated.carries)


@dataclass(frozen=True)
class Options:
    """The options of a compilation.

    Args:
        preset: The rules.
        question: Where relevance is requested, and in which form.
        segments: The number of segments of checkpointing; 0 chooses a good number.
        examples: The shapes and types of the inputs, in order; empty if unknown.
        constants: The names of the inputs that are not to be explained.
        differentiable: Whether autograd is to differentiate the relevance.
    """

    preset: Preset
    question: Question = field(default_factory=Question)
    segments: int = 0
    examples: tuple[InputSpec, ...] = ()
    constants: frozenset[str] = frozenset()
    differentiable: bool = False


@dataclass
class Facts:
    """Facts that passes have inferred about the forward graph, and their decisions.

    Args:
        values: The shapes and types of values, by node name, if example inputs are given.
        sizes: The values of sizes and of numbers computed from them, by node name, if example inputs are given.
        changed_inputs: The inputs that the model changes in place.
        removed: The modules whose operations are no longer in the graph, by path: the reason.
        tokens: The integer values that are inputs of embeddings, and the inputs that they come from.
        mapped_tokens: Those that an operation maps one to one, in place of moving them.
        lost: The inputs that reach the output only through operations that cannot carry relevance, each with the first
            of these operations.
        partly_lost: The inputs that relevance reaches, but not on every way, each with such an operation.
        masks: The inputs that are attention masks, numeric or boolean.
        dependent: The nodes whose value depends on an input through tensors.
        first_layer: The linear maps that read a model input directly.
        weights: The operand positions of products that are weights which a signal selects for itself, by node.
        non_negative: The nodes whose value is never negative.
        finite: The nodes whose value is finite.
        infinite: The nodes whose value may be infinite though the inputs are finite, such as masked scores.
        supported: The nodes whose relevance is zero wherever their value is zero or negative.
        quotients: Decision: the nodes whose steps may pass on relevance as quotients.
        positions: Decision: the node that computes which positions of the output are explained; None for all.
        whole: Decision: the copies that compute all positions, by the nodes that compute those that are explained.
    """

    values: Mapping[str, InputSpec] = field(default_factory=dict)
    sizes: Mapping[str, int | float | tuple[int, ...]] = field(default_factory=dict)
    changed_inputs: tuple[fx.Node, ...] = ()
    removed: dict[str, str] = field(default_factory=dict)
    tokens: frozenset[fx.Node] = frozenset()
    mapped_tokens: frozenset[fx.Node] = frozenset()
    lost: Mapping[fx.Node, fx.Node] = field(default_factory=dict)
    partly_lost: Mapping[fx.Node, fx.Node] = field(default_factory=dict)
    masks: frozenset[fx.Node] = frozenset()
    dependent: frozenset[fx.Node] = frozenset()
    first_layer: frozenset[fx.Node] = frozenset()
    weights: Mapping[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    non_negative: frozenset[fx.Node] = frozenset()
    finite: frozenset[fx.Node] = frozenset()
    infinite: frozenset[fx.Node] = frozenset()
    supported: frozenset[fx.Node] = frozenset()
    quotients: frozenset[fx.Node] = frozenset()
    positions: fx.Node | None = None
    whole: Mapping[fx.Node, fx.Node] = field(default_factory=dict)

    def on(self, nodes: Mapping[fx.Node, fx.Node]) -> Facts:
        """Return the same facts about a copy of the graph; a fact about a node that is not in ``nodes`` is dropped."""
        return Facts(**{each.name: _on(getattr(self, each.name), nodes) for each in dataclasses.fields(self)})


def _on(fact: Any, nodes: Mapping[fx.Node, fx.Node]) -> Any:
    """A fact with the copies of nodes in place of the nodes."""
    if isinstance(fact, fx.Node):
        return nodes.get(fact)
    if isinstance(fact, frozenset | tuple):
        kept = (_on(each, nodes) for each in fact if not isinstance(each, fx.Node) or each in nodes)
        return type(fact)(kept)
    if isinstance(fact, Mapping):
        return {
            _on(key, nodes): _on(value, nodes)
            for key, value in fact.items()
            if not isinstance(key, fx.Node) or key in nodes
        }
    return fact


@dataclass
class Emitted:
    """The relevance steps that were emitted after the forward graph.

    Args:
        annotated: The annotated forward graph before emission.
        interface: The inputs and results of the program.
        flows: The relevance that each step received and passed on, from the output back.
        recomputed: The copies of forward nodes among the relevance steps.
        kept: The nodes that are computed only from parameters and may be kept between calls.
    """

    annotated: fx.Graph
    interface: Interface
    flows: Mapping[fx.Node, Flow]
    recomputed: frozenset[fx.Node] = frozenset()
    kept: tuple[fx.Node, ...] = ()


@dataclass
class Program:
    """The program that passes transform.

    Args:
        graph_module: The graph: first only the forward program, in the end followed by the relevance program.
        vocabulary: The canonical operations, with user-defined ones.
        options: The options of the compilation.
        facts: The facts about the forward graph.
        properties: The properties that passes have provided so far.
        observers: Notified of every stage.
        annotated: The annotated graph, if a later pass has changed the graph of the program.
    """

    graph_module: fx.GraphModule
    vocabulary: Vocabulary
    options: Options
    facts: Facts = field(default_factory=Facts)
    properties: set[str] = field(default_factory=set)
    observers: tuple[Observer, ...] = ()
    annotated: fx.Graph | None = None
    _emitted: Emitted | None = field(default=None, init=False)

    @property
    def emitted(self) -> Emitted:
        """The emitted relevance steps. A pass that reads them needs the property "relevance"."""
        assert self._emitted is not None, "no relevance has been emitted"
        return self._emitted

    @emitted.setter
    def emitted(self, emitted: Emitted) -> None:
        self._emitted = emitted

    @property
    def graph(self) -> fx.Graph:
        """The graph of the program."""
        return self.graph_module.graph

    @property
    def differing(self) -> frozenset[str]:
        """The nodes that check and count targets, seeds and conditions, by name; they stay if nothing reads them."""
        return frozenset() if self._emitted is None else frozenset(self._emitted.interface.differing)

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """The values that the forward graph returns, before relevance steps are emitted."""
        found: dict[fx.Node, None] = {}
        fx.map_arg(self.graph.output_node().args, found.setdefault)
        return tuple(found)

    @property
    def start(self) -> int:
        """The position of the first initial relevance in the graph; the forward program precedes it."""
        starts = set(self.emitted.interface.starts.values())
        return min(index for index, node in enumerate(self.graph.nodes) if node.name in starts)

    @property
    def own_to_questions(self) -> frozenset[fx.Node]:
        """The nodes whose values differ between several questions."""
        differing = self.differing
        return computed_from(self.graph, lambda node: node.name in differing)

    @property
    def questions_start(self) -> int:
        """The position of the first relevance step that differs between several questions; those before run once."""
        own, nodes = self.own_to_questions, list(self.graph.nodes)
        steps = (index for index, node in enumerate(nodes) if node in own and node.name not in self.differing)
        return next(steps, len(nodes))

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        """Return a copy on a copy of the model. Facts refer to nodes, which cannot be copied without their graph."""
        root = copy.deepcopy(self.graph_module, memo)
        copies = nodes_by_name(root.graph)
        facts = self.facts.on({node: copies[node.name] for node in self.graph.nodes})
        return dataclasses.replace(self, graph_module=root, facts=facts, properties=set(self.properties))

    def tell(self, stage: str, count: int) -> None:
        """Notify the observers of a stage: the capture, or the end of a pass with how often it applied."""
        for observer in self.observers:
            observer(stage, count, self)


Observer: TypeAlias = Callable[[str, int, Program], None]


def computed_from(graph: fx.Graph, is_source: Callable[[fx.Node], bool]) -> frozenset[fx.Node]:
    """The nodes that are sources, and all nodes that are computed from them."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if is_source(node) or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return frozenset(found)


def nodes_by_name(graph: fx.Graph) -> dict[str, fx.Node]:
    """The nodes of a graph by name."""
    return {node.name: node for node in graph.nodes}


def input_name(placeholder: fx.Node) -> str:
    """The name of an input, such as ``batch.image``; its placeholder has a Python name."""
    return str(placeholder.meta.get(INPUT_NAME, placeholder.target))


def inputs_among(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """The placeholders among nodes, in order."""
    return [node for node in nodes if node.op == "placeholder"]


def returned_by(graph: fx.Graph) -> Any:
    """The return value of a graph, with nodes in place of values."""
    return graph.output_node().args[0]

"""The program under compilation: the graph, and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import fx

from fxlrp.operation import Vocabulary
from fxlrp.rules.presets import Preset
from fxlrp.rules.specs import Rule
from fxlrp.shapes import InputSpec

ANNOTATION = "fxlrp"


@dataclass(frozen=True)
class Annotation:
    """The rule of a forward node, under ``node.meta["fxlrp"]``.

    Args:
        rule: The rule.
        carries: The operand positions that receive relevance.
        origin: Who chose the rule: a preset, a user pair, a default.
        reason: Why this rule, and why these operands.
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
    """The relevance of a value, as it is or as a quotient by another value: ``relevance = base * factor``.

    Args:
        factor: The relevance itself, or what ``base`` is to be multiplied with.
        base: The value, or what an activation made of it; None if ``factor`` is the relevance.
    """

    factor: fx.Node
    base: fx.Node | None = None


@dataclass(frozen=True)
class Flow:
    """The relevance that a step received, for each of the node's results, and what it handed on to each operand."""

    received: tuple[Relevance, ...]
    handed_on: tuple[Relevance, ...]


def receivers(node: fx.Node, vocabulary: Vocabulary) -> tuple[fx.Node, ...]:
    """The nodes to which ``node`` hands relevance, with repetitions; none if no relevance reaches it."""
    annotated, operation = annotation(node), vocabulary.operation(node)
    if annotated is None or operation is None:
        return ()
    operands = operation.operands_of(node)
    return tuple(operands[position] for position in annotated.carries)


@dataclass
class Program:
    """What passes work on.

    Args:
        graph_module: The graph, first forward only, in the end with the relevance program behind it.
        vocabulary: The canonical operations, with the user's own.
        preset: The rules in force.
        values: Fact: what values look like, by node name, where example inputs told it.
        changed_inputs: Fact: the inputs that the model changes in place.
        tokens: Fact: the integer values that are inputs of embeddings, and the inputs that they come from.
        masks: Fact: the inputs that are masks of attention, of numbers or truth values.
        dependent: Fact: the nodes whose value depends on an input through tensors.
        first_layer: Fact: the linear maps that read a model input directly.
        non_negative: Fact: the nodes whose value is never negative.
        supported: Fact: the nodes whose relevance is zero wherever their value is zero or negative.
        quotients: Decision: the nodes whose steps may hand on relevance as quotients.
        constants: Decision: the nodes that are computed from parameters alone and may be kept between calls.
        at: Option: where relevance is asked for: a node's name or a module's path; None for the inputs.
        gradients: Fact: the inputs that hold the gradients of outputs, by output, in a program for a backward.
        flows: Fact: what each step received and handed on, from the output back.
        ends: Fact: the values whose relevance the program returns.
        segments: Option: into how many segments checkpointing cuts the forward program; 0 is a good number.
        recomputed: Fact: the copies of forward nodes that stand among the relevance steps.
        properties: What the passes so far have provided.
        observers: Told of every stage.
    """

    graph_module: fx.GraphModule
    vocabulary: Vocabulary
    preset: Preset
    values: Mapping[str, InputSpec] = field(default_factory=dict)
    changed_inputs: tuple[fx.Node, ...] = ()
    tokens: frozenset[fx.Node] = frozenset()
    masks: frozenset[fx.Node] = frozenset()
    dependent: frozenset[fx.Node] = frozenset()
    first_layer: frozenset[fx.Node] = frozenset()
    non_negative: frozenset[fx.Node] = frozenset()
    supported: frozenset[fx.Node] = frozenset()
    quotients: frozenset[fx.Node] = frozenset()
    constants: tuple[fx.Node, ...] = ()
    at: str | None = None
    gradients: Mapping[fx.Node, fx.Node] = field(default_factory=dict)
    flows: dict[fx.Node, Flow] = field(default_factory=dict)
    ends: tuple[fx.Node, ...] = ()
    segments: int = 0
    recomputed: frozenset[fx.Node] = frozenset()
    properties: set[str] = field(default_factory=set)
    observers: tuple[Observer, ...] = ()

    @property
    def graph(self) -> fx.Graph:
        """The graph of the program."""
        return self.graph_module.graph

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """The values that the forward graph returns, as long as there is no relevance program behind it."""
        found: dict[fx.Node, None] = {}
        fx.map_arg(self.graph.output_node().args, found.setdefault)
        return tuple(found)

    def tell(self, stage: str, count: int) -> None:
        """Tell the observers that a stage is reached: the capture, or the end of a pass and how often it applied."""
        for observer in self.observers:
            observer(stage, count, self)


Observer: TypeAlias = Callable[[str, int, Program], None]

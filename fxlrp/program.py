"""The program under compilation: the graph, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import fx

from fxlrp.operation import Vocabulary
from fxlrp.rules.presets import Preset
from fxlrp.rules.specs import Rule

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
        constant_inputs: The positions of inputs that are no floating-point tensors: they carry no relevance.
        shapes: Fact: the shapes of values by node name, where example inputs told them.
        dependent: Fact: the nodes whose value depends on an input through tensors.
        first_layer: Fact: the linear maps that read a model input directly.
        non_negative: Fact: the nodes whose value is never negative.
        supported: Fact: the nodes whose relevance is zero wherever their value is zero or negative.
        quotients: Decision: the nodes whose steps may hand on relevance as quotients.
        constants: Decision: the nodes that are computed from parameters alone and may be kept between calls.
        segments: Option: into how many segments checkpointing cuts the forward program; 0 is a good number.
        recomputed: Fact: the copies of forward nodes that stand among the relevance steps.
        properties: What the passes so far have provided.
    """

    graph_module: fx.GraphModule
    vocabulary: Vocabulary
    preset: Preset
    constant_inputs: frozenset[int] = frozenset()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dependent: frozenset[fx.Node] = frozenset()
    first_layer: frozenset[fx.Node] = frozenset()
    non_negative: frozenset[fx.Node] = frozenset()
    supported: frozenset[fx.Node] = frozenset()
    quotients: frozenset[fx.Node] = frozenset()
    constants: tuple[fx.Node, ...] = ()
    segments: int = 0
    recomputed: frozenset[fx.Node] = frozenset()
    properties: set[str] = field(default_factory=set)

    @property
    def graph(self) -> fx.Graph:
        """The graph of the program."""
        return self.graph_module.graph

"""A step of the relevance program: the arguments of the emitter of a rule, and its results."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from torch import Tensor, fx

from fxlrp.errors import UnsupportedOpError
from fxlrp.operation import Operation
from fxlrp.program import Relevance
from fxlrp.provenance import describe, provenance
from fxlrp.relevance.held import Frozen
from fxlrp.relevance.numerics import finite_product, multiply_components
from fxlrp.rules.rule import Rule
from fxlrp.shapes import InputSpec
from fxlrp.vocabulary.lookup import Vocabulary

Emitted = TypeVar("Emitted")


@dataclass(frozen=True)
class StepFacts:
    """Facts that the compiler has proved about a step, and its decisions.

    Args:
        non_negative: The forward values that are never negative.
        finite: The forward values that are finite.
        infinite: The forward values that may be infinite where the inputs are finite.
        supported: Whether the relevance is zero wherever the value is zero or negative.
        quotients: Whether the step may pass on relevance as a quotient.
        as_coefficients: Whether coefficients are requested, so that their products with values are not computed.
        values: The shapes and types of values, and the values of sizes, by node name; empty without example inputs.
        differentiable: Whether the step must have a derivative.
    """

    non_negative: frozenset[fx.Node] = frozenset()
    finite: frozenset[fx.Node] = frozenset()
    infinite: frozenset[fx.Node] = frozenset()
    supported: bool = False
    quotients: bool = False
    as_coefficients: bool = False
    values: Mapping[str, InputSpec | int | float | tuple[int, ...]] = field(default_factory=dict)
    differentiable: bool = False


@dataclass(frozen=True)
class Step:
    """The annotated forward node whose relevance is passed to its operands.

    Args:
        graph: The graph under construction.
        node: The forward node, which is also its value.
        operation: Its canonical operation.
        rule: The rule it is annotated with.
        receivers: The operand positions that receive relevance.
        received: The relevance of the node's value; for a node with several results, by result index.
        facts: The facts about the step.
        multiply: Emits the relevance itself if it is received as a quotient.
        emitted: What :meth:`once` has emitted for this step.
    """

    graph: fx.Graph
    node: fx.Node
    operation: Operation
    rule: Rule
    receivers: tuple[int, ...]
    received: Relevance | Mapping[int, Relevance]
    facts: StepFacts
    multiply: Callable[[Relevance], fx.Node]
    emitted: dict[Callable[[Step], Any], Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, emit: Callable[[Step], Emitted]) -> Emitted:
        """What ``emit`` emits for this step, the same at every call: the relevance of operands and parameters share it.

        Args:
            emit: A function of the step; functions that are equal emit the same.
        """
        if emit not in self.emitted:
            self.emitted[emit] = emit(self)
        made: Emitted = self.emitted[emit]
        return made

    @property
    def single(self) -> Relevance:
        """The relevance of the node's only result, as a quotient if it is carried as one."""
        assert isinstance(self.received, Relevance)
        return self.received

    @property
    def relevance(self) -> fx.Node:
        """The relevance of the node's only result."""
        return self.multiply(self.single)

    @property
    def parts(self) -> Mapping[int, fx.Node]:
        """The relevance of the node's several results, by index."""
        assert not isinstance(self.received, Relevance)
        return {index: self.multiply(relevance) for index, relevance in self.received.items()}

    @property
    def arguments(self) -> dict[str, Any]:
        """The forward node's arguments by parameter name."""
        return self.operation.arguments(self.node)

    @property
    def operands(self) -> tuple[Any, ...]:
        """The forward node's operands by position."""
        return self.operation.operands_of(self.node)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call of a pure function to the program, with the provenance of the forward node."""
        # Name intermediate values after the node. A contribution is renamed after its operand when it is credited.
        return self._add(f"parts_{self.node.name}", function, args, kwargs)

    def named(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Like :meth:`call`, but name the node after the forward node and ``name``."""
        return self._add(f"{self.node.name}_{name}", function, args, kwargs)

    def _add(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        # With its name, which torch.fx would else make from that of the function, and slowly.
        made = self.graph.create_node("call_function", function, name=name)
        # Among arguments that it is given, create_node would look for symbolic numbers.
        made.args = args
        if kwargs:
            made.kwargs = kwargs
        made.meta.update(provenance(self.node))
        return made

    def is_complex(self, value: Any) -> bool:
        """Whether a forward value is known to be complex."""
        spec = self.facts.values.get(value.name) if isinstance(value, fx.Node) else None
        return isinstance(spec, InputSpec) and spec.dtype.is_complex

    @property
    def reads_complex(self) -> bool:
        """Whether the value of the node, or an operand that receives relevance, is complex."""
        return self.is_complex(self.node) or any(self.is_complex(self.operands[each]) for each in self.receivers)

    def constant(self, name: str, value: Tensor) -> fx.Node:
        """Add a tensor that is not a parameter of the model to the program, on the root of its graph."""
        root = self.graph.owning_module
        assert root is not None
        path = f"{self.node.name}_{name}"
        while hasattr(root, path):
            path += "_"
        root.register_buffer(path, value, persistent=False)
        made = self.graph.get_attr(path)
        made.meta.update(provenance(self.node))
        return made

    def times(self, operand: fx.Node, factor: fx.Node) -> Relevance:
        """The contribution ``operand * factor``, multiplied out unless it may remain a quotient."""
        if self.facts.quotients:
            return Relevance(factor, operand)
        if self.is_complex(operand):
            return Relevance(self.call(multiply_components, operand, factor))
        if operand in self.facts.infinite:
            return Relevance(self.call(finite_product, factor, operand))
        return Relevance(self.call(operator.mul, operand, factor))

    @property
    def may_drop(self) -> bool:
        """Whether a quotient may omit elements of the operands: all operands that receive relevance are finite."""
        finite = (self.operands[position] in self.facts.finite for position in self.receivers)
        return self.facts.as_coefficients or all(finite)

    def to_receivers(self, contribution: Callable[[int, Any], Contribution]) -> Contributions:
        """One contribution for each operand that receives relevance, by position and operand; None for the others."""
        return [
            contribution(position, operand) if position in self.receivers else None
            for position, operand in enumerate(self.operands)
        ]


Contribution: TypeAlias = "fx.Node | Relevance | None"
Contributions: TypeAlias = "Sequence[Contribution]"
Emitter: TypeAlias = Callable[[Step], Contributions]

Argument: TypeAlias = "int | str"
"""The position of an operand, or the name of another argument."""


def like_receiver(emit: Emitter) -> Callable[[Step, Argument], Contribution]:
    """The relevance of an operand that does not depend on the input: what it would receive if only it did."""

    def of_parameter(step: Step, argument: Argument) -> Contribution:
        if not isinstance(argument, int):
            raise no_relevance_of(step, argument)
        return emit(replace(step, receivers=(argument,)))[argument]

    return of_parameter


def no_relevance_of(step: Step, argument: Argument) -> UnsupportedOpError:
    """The error for a parameter whose relevance is not defined."""
    named = f"operand {argument}" if isinstance(argument, int) else f"argument {argument!r}"
    return UnsupportedOpError(
        f"{step.rule} does not define the relevance of the {named} of the {describe(step.node, step.operation.name)}"
    )


@dataclass(frozen=True)
class Receivers:
    """The operands that receive relevance, and the reason if not all do."""

    positions: tuple[int, ...]
    reason: str = ""


@dataclass(frozen=True)
class Choice:
    """The information from which a rule chooses the operands that receive relevance.

    Args:
        node: The forward node.
        rule: Its rule.
        dependent: The operand positions that depend on an input.
        operands: The operands by position.
        program_dependent: All nodes that depend on an input.
        vocabulary: The canonical operations, to inspect earlier nodes.
        weights: The positions of the operands that are weights which a signal selects for itself.
    """

    node: fx.Node
    rule: Rule
    dependent: tuple[int, ...]
    operands: tuple[Any, ...]
    program_dependent: frozenset[fx.Node]
    vocabulary: Vocabulary
    weights: tuple[int, ...] = ()


def all_dependent(choice: Choice) -> Receivers:
    """Every operand that depends on an input receives relevance, as with most rules."""
    return Receivers(choice.dependent)


def _never(step: Step) -> None:
    return None


def _every(operation: Operation) -> bool:
    return True


class Absorber(enum.Enum):
    """The constant that LRP-epsilon adds to the contributions of the operands, and that absorbs its share."""

    NOTHING = "nothing"
    BIAS = "the bias"
    OPERANDS = "the operands that do not depend on the input"


@dataclass(frozen=True)
class Implementation:
    """The implementation of a rule for a family of operations.

    The fields from ``quotients`` on are facts that passes rely on. A fact that is not stated is not assumed.

    Args:
        emit: Adds the step's calls to the program and returns one contribution for each operand.
        receivers: Chooses the operands that receive relevance.
        specialize: Emits a cheaper step if the facts allow one, else returns None.
        of_parameter: Emits the relevance of an argument that does not depend on the input, summed over the batch, given
            the step and the argument; returns None if the rule gives it none. None if it is not defined for the rule.
        quotients: Whether the step can pass on relevance as a quotient.
        vanishes: Whether the contribution to an element of an operand is zero where that element is zero.
        of_complex: Whether the step is valid for complex values, whose real and imaginary parts each have relevance.
        follows: Whether the relevance of each element of the result goes only to the elements from which it was
            selected or computed.
        absorber: What absorbs relevance beside the stabilizer under LRP-epsilon; None if unknown.
        frozen: What the rule holds constant inside the operation; None if the operation is affine in the operands that
            receive relevance.
        fits: Tells whether the rule fits an operation of the family, by a fact on its row.
    """

    emit: Emitter
    receivers: Callable[[Choice], Receivers] = all_dependent
    specialize: Callable[[Step], Contributions | None] = _never
    of_parameter: Callable[[Step, Argument], Contribution] | None = None
    quotients: bool = False
    vanishes: bool = False
    follows: bool = False
    of_complex: bool = False
    absorber: Absorber | None = None
    frozen: Frozen | None = None
    fits: Callable[[Operation], bool] = _every


RuleTable: TypeAlias = "Mapping[type[Rule], Implementation | Mapping[str, Implementation]]"
"""The implementation of each rule: one for all operations of a family, or one for each by name."""

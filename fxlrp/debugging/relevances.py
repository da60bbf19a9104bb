"""The relevance of every node: what it received, what it passed on, and what absorbed the rest."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx

from fxlrp.absence import Names
from fxlrp.arguments import shown, similar
from fxlrp.debugging.first_non_finite import Break, first_break
from fxlrp.debugging.node_location import NodeLocation
from fxlrp.debugging.non_finite import NotFinite
from fxlrp.debugging.renamed import renamed
from fxlrp.debugging.rounding import Rounding, RoundingObserver
from fxlrp.debugging.shares import Constant, at_zeros
from fxlrp.debugging.step_by_step import NodeFlow, StepByStep
from fxlrp.errors import InputError
from fxlrp.printing.html import Table, html_table
from fxlrp.program import nodes_by_name, receivers

HEADERS = (
    *("node", "operation", "rule", "shape", "received", "min", "max", "not finite"),
    *("passed on", "absorbed", "by bias", "by stabilizer"),
)
NUMBERS = (*HEADERS[4:7], *HEADERS[8:])


@dataclass(frozen=True)
class Summary:
    """The summary of a relevance tensor.

    Args:
        shapes: The shape of the tensor; for a node with several results, one shape for each result.
        sum: The sum of all elements, computed in double precision.
        min: The smallest element, ignoring NaN; NaN if all elements are NaN.
        max: The largest element, ignoring NaN; NaN if all elements are NaN.
        not_finite: How many elements are NaN or infinite.
    """

    shapes: tuple[tuple[int, ...], ...]
    sum: float
    min: float
    max: float
    not_finite: NotFinite

    @staticmethod
    def of(relevance: Tensor) -> Summary:
        """Return the summary of one tensor."""
        if relevance.is_complex():
            # Real and imaginary parts have their own relevance.
            return replace(Summary.of(torch.view_as_real(relevance.resolve_conj())), shapes=(tuple(relevance.shape),))
        bad = NotFinite.of(relevance)
        numbers = relevance[~relevance.isnan()] if bad.nan else relevance
        least, most = (float(each) for each in numbers.aminmax()) if numbers.numel() else (math.nan, math.nan)
        return Summary((tuple(relevance.shape),), float(relevance.double().sum()), least, most, bad)

    @staticmethod
    def of_all(parts: Sequence[Summary]) -> Summary:
        """Return one summary of several tensors."""
        numbers = [part for part in parts if part.min == part.min]
        return Summary(
            tuple(shape for part in parts for shape in part.shapes),
            sum(part.sum for part in parts),
            min((part.min for part in numbers), default=math.nan),
            max((part.max for part in numbers), default=math.nan),
            NotFinite(sum(part.not_finite.nan for part in parts), sum(part.not_finite.inf for part in parts)),
        )


@dataclass(frozen=True)
class NodeRelevance:
    """The relevance of a node's value, and how its step distributes it.

    Relevance is in units of the explained output.

    Args:
        location: The node.
        received: The summary of the relevance of its value.
        passed_on: The relevance that its operands received from it, summed over all elements and samples; None where
            the explanation ends.
        bias: The part of the absorbed relevance that goes to the bias, or to another constant that is added; None if
            the formula of the rule does not determine it.
        zeros: The part of the absorbed relevance that arrived at elements of value zero, which no contribution can
            share: ``exp(0) = 1``, for example, is relevant, and its argument cannot be; None as for ``bias``.
        value: How many elements of its forward value are NaN or infinite.
        kept: The relevance of each of its results, each in the shape of the result; None without ``keep=True``.
        passed_to: The operands that receive relevance, by the names of their nodes in the order of the operands, each
            with the part of ``passed_on`` that it received. ``x + x`` has two entries.
    """

    location: NodeLocation
    received: Summary
    passed_on: float | None
    bias: float | None
    zeros: float | None
    value: NotFinite
    kept: tuple[Tensor, ...] | None = field(default=None, repr=False, compare=False)
    passed_to: tuple[tuple[str, float], ...] = ()

    @property
    def node(self) -> str:
        """The name of the node."""
        return self.location.node

    @property
    def place(self) -> NodeLocation:
        """:attr:`location`, under its name of version 0.1."""
        return renamed("place", "location", self.location)

    @property
    def handed_on(self) -> float | None:
        """:attr:`passed_on`, under its name of version 0.1."""
        return renamed("handed_on", "passed_on", self.passed_on)

    @property
    def absorbed(self) -> float | None:
        """``received.sum - passed_on``; negative where the node created relevance, None where the explanation ends."""
        return None if self.passed_on is None else self.received.sum - self.passed_on

    @property
    def stabilizer(self) -> float | None:
        """``absorbed - bias``: the share of the stabilizer, and rounding errors; None if ``bias`` is None."""
        return None if self.bias is None or self.absorbed is None else self.absorbed - self.bias

    @property
    def relevance(self) -> Tensor | tuple[Tensor, ...]:
        """The relevance itself, in the shape of the value; a tuple for a node with several results.

        Raises:
            InputError: The relevance was not kept.
        """
        if self.kept is None:
            raise InputError(f"the relevance of {self.node!r} was not kept: call explain.debug(..., keep=True)")
        return self.kept if len(self.kept) > 1 else self.kept[0]


@dataclass(frozen=True)
class Relevances:
    """An explanation node by node. :meth:`fxlrp.Explainer.debug` returns it.

    Args:
        explained: The initial relevance, summed over all elements and samples. With a target it is the sum of the
            explained outputs.
        at_inputs: The relevance of all inputs, or of the value that ``fxlrp.compile(..., at=...)`` names.
        nodes: The nodes that relevance passes through on the way there, from the output back, then those where it
            ends.
        first_bad: Where NaN or infinity first appears; None if all relevance is finite.
        absent: The names in the model that no node has, with the reasons.
        rounding: The comparison with double precision; None without ``rounding=True``.
        others: The names of inputs and the paths of modules, with the node whose value each means.
    """

    explained: float
    at_inputs: float
    nodes: tuple[NodeRelevance, ...]
    first_bad: Break | None
    absent: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    rounding: Rounding | None = None
    others: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __getitem__(self, name: str) -> NodeRelevance:
        """Return the node with this name.

        Args:
            name: The name of a node in the annotated graph or of an input, or the path of a module that returns one
                value.

        Raises:
            KeyError: There is no such node, or no relevance reaches it.
        """
        wanted = {name, self.others.get(name)}
        found = next((each for each in self.nodes if each.node in wanted), None)
        if found is None:
            if not isinstance(name, str):
                raise KeyError(f"{shown(name)} is not a name: use .nodes[...] for an index")
            reason = self.absent.get(name)
            hint = f": {reason}" if reason else similar(name, [*(each.node for each in self.nodes), *self.others])
            raise KeyError(f"no relevance reaches a node named {name!r}{hint}")
        return found

    def __iter__(self) -> Iterator[NodeRelevance]:
        """Iterate over :attr:`nodes`."""
        return iter(self.nodes)

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self.nodes)

    def __contains__(self, name: object) -> bool:
        """Whether there is a node with this name."""
        return any(name in (each.node, each) for each in self.nodes)

    def table(self) -> Table:
        """Return the nodes and the sums as text.

        Returns:
            A table with a row for each node, and below it the sums and :attr:`first_bad`; a string that notebooks show
            as HTML.
        """
        rows = [_row(each) for each in self.nodes]
        table = tabulate(rows, headers=HEADERS, disable_numparse=True)
        passed = [each for each in self.nodes if each.absorbed is not None]
        bias, stabilizer = (_total(each.bias for each in passed), _total(each.stabilizer for each in passed))
        others = _total(each.absorbed for each in passed if each.bias is None)
        notes = (
            f"explained: {self.explained:.6g}, at the inputs: {self.at_inputs:.6g}\n"
            f"absorbed: {bias:.6g} by biases, {stabilizer:.6g} by stabilizers, {others:.6g} where the rule does "
            f"not separate them\n{self.first_bad or 'all relevance is finite'}"
        )
        if self.rounding is not None:
            notes = f"{notes}\n{self.rounding}"
        return Table(f"{table}\n\n{notes}", html_table(HEADERS, rows, notes, right=NUMBERS))

    def _repr_html_(self) -> str:
        return self.table().html

    def __str__(self) -> str:
        """:meth:`table`."""
        return self.table()


def _total(numbers: Iterable[float | None]) -> float:
    return sum(number for number in numbers if number is not None)


def _row(each: NodeRelevance) -> tuple[str, ...]:
    received = each.received
    shapes = ", ".join("x".join(map(str, shape)) for shape in received.shapes)
    numbers = (received.sum, received.min, received.max)
    balance = (each.passed_on, each.absorbed, each.bias, each.stabilizer)
    return (
        *(each.node, each.location.operation, each.location.rule, shapes),
        *map(_short, numbers),
        str(received.not_finite),
        *map(_short, balance),
    )


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def relevances(
    steps: StepByStep,
    values: Sequence[Any],
    controls: Mapping[str, Any],
    *,
    keep: bool,
    names: Names,
    rounding: bool,
) -> Relevances:
    """Run the explanation step by step, without optimizations, and summarize the relevance of every node.

    Args:
        steps: The explanation.
        values: The inputs of the model, in order.
        controls: The target and the seed, by name.
        keep: Whether to keep the relevance itself.
        names: The names that are not those of nodes.
        rounding: Whether to compare with double precision.

    Returns:
        The relevance of every node.
    """
    flows = _leading_to_the_ends(steps)
    seen = _Observer(steps, keep)
    compared = RoundingObserver(steps, flows) if rounding else None

    def observe(node: fx.Node, value: Any) -> None:
        seen(node, value)
        if compared is not None:
            compared(node, value)

    steps.run(values, controls, observe)

    def node_relevance(
        value: fx.Node,
        received: Sequence[fx.Node],
        passed_on: float | None,
        passed_to: tuple[tuple[str, float], ...] = (),
    ) -> NodeRelevance:
        return NodeRelevance(
            NodeLocation.of(value, steps.program.vocabulary),
            Summary.of_all([seen.summaries[each] for each in received]),
            passed_on,
            seen.biases.get(value) if passed_on is not None else None,
            seen.zeros.get(value) if passed_on is not None else None,
            seen.values[value],
            tuple(seen.kept[each] for each in received) if keep else None,
            passed_to,
        )

    def total(nodes: Iterable[fx.Node]) -> float:
        return sum(seen.summaries[each].sum for each in nodes)

    def by_operand(flow: NodeFlow) -> tuple[tuple[str, float], ...]:
        operands = receivers(flow.node, steps.program.vocabulary)
        return tuple((to.name, total((passed,))) for to, passed in zip(operands, flow.passed_on, strict=True))

    passed = [node_relevance(each.node, each.received, total(each.passed_on), by_operand(each)) for each in flows]
    ended = [node_relevance(value, (relevance,), None) for value, relevance in steps.ends]
    counts = {node: summary.not_finite for node, summary in seen.summaries.items()}
    return Relevances(
        total((steps.start,)),
        total(relevance for _, relevance in steps.ends),
        (*passed, *ended),
        first_break(steps, flows, seen.values, counts),
        names.absent,
        compared.result() if compared is not None else None,
        names.others,
    )


def _leading_to_the_ends(steps: StepByStep) -> tuple[NodeFlow, ...]:
    """Return the steps that lead to the requested relevance: all of them, or with ``at=`` those on the way there."""
    if not steps.program.options.question.names:
        return steps.flows
    needed = {relevance for _, relevance in steps.ends}
    for node in reversed(steps.program.graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return tuple(flow for flow in steps.flows if needed.intersection(flow.passed_on))


class _Observer:
    """Summarizes each relevance tensor as it is computed, and counts the non-finite elements of forward values."""

    def __init__(self, steps: StepByStep, keep: bool) -> None:
        self.summaries: dict[fx.Node, Summary] = {}
        self.values: dict[fx.Node, NotFinite] = {}
        self.biases: dict[fx.Node, float] = {}
        self.zeros: dict[fx.Node, float] = {}
        self.kept: dict[fx.Node, Tensor] = {}
        self._keep = keep
        nodes = nodes_by_name(steps.program.graph)
        # The program itself refuses a target or a seed that is not a tensor, or that is one of a wrong kind.
        self._controls = {nodes[name] for name in steps.program.emitted.interface.controls.values()}
        self._relevances = {
            *(steps.start, *(relevance for _, relevance in steps.ends)),
            *(each for flow in steps.flows for each in (*flow.received, *flow.passed_on)),
        }
        # The values from which the shares of constants are computed, held as long as steps that read them are to run.
        self._held: dict[fx.Node, Any] = {}
        self._to_read: Counter[fx.Node] = Counter()
        self._constants: dict[fx.Node, list[tuple[int | None, Constant]]] = defaultdict(list)
        for flow in steps.flows:
            constant = Constant.of(flow)
            if constant is not None:
                for index, received in zip(flow.results, flow.received, strict=True):
                    self._constants[received].append((index, constant))
                    self._to_read.update((flow.node, *constant.reads))

    def __call__(self, node: fx.Node, value: Any) -> None:
        """Record the value of a node."""
        if node in self._controls:
            return
        if node not in self._relevances:
            self.values[node] = NotFinite.of(value)
            if self._to_read[node]:
                self._held[node] = value
            return
        self.summaries[node] = Summary.of(value)
        if self._keep:
            self.kept[node] = value
        for index, constant in self._constants.get(node, ()):
            of, whole = constant.flow.node, self._held[constant.flow.node]
            out = whole if index is None else whole[index]
            self.zeros[of] = self.zeros.get(of, 0.0) + at_zeros(out, value)
            self.biases[of] = self.biases.get(of, 0.0) + constant.share(self._held, out, value)
            self._read(of, *constant.reads)

    def _read(self, *nodes: fx.Node) -> None:
        """Free the values that no other step is to read."""
        self._to_read.subtract(nodes)
        for node in nodes:
            if not self._to_read[node]:
                self._held.pop(node, None)

"""The forward program at an input, and the same program with all that the rules hold constant kept at its values there.

The second one is affine. It runs at four points: zero, the input, random values, and the sum of the input and these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from fxlrp.certificate.double import InDouble
from fxlrp.debugging.step_by_step import NodeFlow, StepByStep, last_uses
from fxlrp.program import operation_under
from fxlrp.relevance import implementation
from fxlrp.relevance.held import Frozen, Held

ZERO, INPUT, RANDOM, SUM = range(4)


@dataclass(frozen=True)
class Forward:
    """The results of the forward program.

    Args:
        values: The value of every node at the input.
        constants: The result of the affine map of a step where all its operands are zero; none for steps for which it
            is zero.
        ends: The random value at each end of the explanation.
        moved: The explained output of the program with what is frozen, at each of the four points.
        bent: The steps that are not the affine map that their rules state, each with the difference, relative to the
            result.
    """

    values: Mapping[fx.Node, Any]
    constants: Mapping[fx.Node, Any]
    ends: Mapping[fx.Node, Tensor]
    moved: tuple[Tensor, ...]
    bent: Mapping[fx.Node, float]


def run_forward(
    steps: StepByStep, run: InDouble, forward: Sequence[fx.Node], inputs: Mapping[fx.Node, Any], tolerance: float
) -> Forward:
    """Run the forward program, and beside it the program with what is frozen.

    Args:
        steps: The explanation.
        run: Computes its nodes.
        forward: The nodes of the forward program, in order.
        inputs: The values of the placeholders.
        tolerance: The difference up to which a step counts as affine, relative to its result.
    """
    walk = _Walk(steps, tolerance)
    values: dict[fx.Node, Any] = {}
    last = last_uses(forward)
    for node in forward:
        args, kwargs = run.call(node, values)
        values[node] = inputs[node] if node.op == "placeholder" else run.value(node, args, kwargs)
        walk.visit(node, args, kwargs, values)
        for gone in last[node]:
            if gone is not steps.explained:
                walk.points.pop(gone, None)
    return Forward(values, walk.constants, walk.ends, walk.points[steps.explained], walk.bent)


def frozen_of(flow: NodeFlow) -> Frozen | None:
    """What the rule of a step holds constant inside the operation."""
    how = implementation(flow.operation, flow.annotation.rule)
    frozen = None if how is None else how.frozen
    return None if frozen is None or len(flow.annotation.carries) < frozen.least else frozen


class _Walk:
    """Moves the operands of every step, with what is frozen kept as it is."""

    def __init__(self, steps: StepByStep, tolerance: float) -> None:
        self.points: dict[fx.Node, tuple[Any, ...]] = {}
        self.constants: dict[fx.Node, Any] = {}
        self.ends: dict[fx.Node, Tensor] = {}
        self.bent: dict[fx.Node, float] = {}
        self._behind: set[fx.Node] = set()
        self._steps, self._flows = steps, {flow.node: flow for flow in steps.flows}
        self._are_ends = {value for value, _ in steps.ends}
        self._tolerance = tolerance
        self._generator = torch.Generator().manual_seed(0)

    def visit(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], values: Mapping[fx.Node, Any]
    ) -> None:
        """Compute the points of a node."""
        value = values[node]
        if node in self._are_ends:
            self.ends[node] = _random_like(value, self._generator)
            self.points[node] = (torch.zeros_like(value), value, self.ends[node], value + self.ends[node])
        elif node in self._flows:
            self._step(self._flows[node], args, kwargs, values)

    def _step(
        self, flow: NodeFlow, args: tuple[Any, ...], kwargs: dict[str, Any], values: Mapping[fx.Node, Any]
    ) -> None:
        node, frozen = flow.node, frozen_of(flow)
        operation = operation_under(flow.operation, flow.annotation.rule)
        assert callable(node.target)
        given = operation.arguments(node)
        lists = frozenset(name for name in operation.operands if isinstance(given[name], list | tuple))
        arguments = operation.bind(args, kwargs)
        held = Held(operation, node.target, arguments, values[node], flow.annotation.carries, lists)
        move = held.at if frozen is None else lambda moved: frozen.forward(held, moved)
        operands = operation.operands_of(node)
        sources = {position: operands[position] for position in held.receivers}
        self.points[node] = tuple(
            move({position: self.points[source][index] for position, source in sources.items()})
            for index in (ZERO, INPUT, RANDOM, SUM)
        )
        constant = move({position: map_aggregate(values[source], _zeros) for position, source in sources.items()})
        if _is_anywhere_nonzero(constant):
            self.constants[node] = constant
        # What follows a step that is not affine is not affine either. Of several results, those selected count.
        is_behind = not self._behind.isdisjoint(sources.values())
        bend = _bend(self.points[node], held.out) if isinstance(held.out, Tensor) else 0.0
        if not bend <= self._tolerance and not is_behind:
            is_result = self._steps.program.vocabulary.result_index(node) is not None
            self.bent[sources[0] if is_result else node] = bend
        if is_behind or not bend <= self._tolerance:
            self._behind.add(node)


def _bend(points: Sequence[Tensor], out: Tensor) -> float:
    """How far a map is from affine, and from the value at the input, relative to its results."""
    # Infinite numbers that pad, or that hide scores, are no sums.
    finite = out.isfinite()
    if not bool(finite.any()):
        return 0.0
    out = out[finite]
    zero, at_input, at_random, at_sum = (each[finite] for each in points)
    second = (at_sum - at_input - at_random + zero).abs().max()
    off = float(torch.maximum(second, (at_input - out).abs().max()))
    return off / max(float(each.abs().max()) for each in (at_input, at_random, out)) if off else 0.0


def _is_anywhere_nonzero(value: Any) -> bool:
    parts = value if isinstance(value, tuple | list) else (value,)
    return any(isinstance(part, Tensor) and bool(part.any()) for part in parts)


def _zeros(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) else value


def _random_like(value: Tensor, generator: torch.Generator) -> Tensor:
    """Normal random numbers of the scale of a value."""
    size = value.abs().square().mean().sqrt() if value.numel() else value.abs().sum()
    noise = torch.randn(value.shape, dtype=value.dtype, generator=generator).to(value.device)
    return noise * torch.where(size > 0, size, 1.0)

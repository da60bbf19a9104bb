"""How much of an explanation is rounding: its steps in double precision, beside those of the explanation.

A rounding error of a value near zero, where contributions cancel, is large beside the value. It changes the sign of the
value, or its share ``z / s(z)``, and with it all relevance that passes the value. The relevance without rounding is not
known, but in double precision it is known to many more digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from fxlrp.debugging.node_location import NodeLocation
from fxlrp.debugging.step_by_step import NodeFlow, StepByStep, last_uses
from fxlrp.program import receivers

VISIBLE = 0.01
DOMINANT = 0.5
ADVICE = "a larger epsilon, rules whose denominators do not cancel (ZPlus, Gamma) or a higher precision reduce it"
_WIDE: Mapping[torch.dtype, torch.dtype] = {
    **dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), torch.float64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
}


@dataclass(frozen=True)
class Loss:
    """What a step adds to the rounding error.

    The error is that of all relevance which is on its way to the inputs at that point of the explanation: the sum of
    the absolute differences over the sum of the absolute values.

    Args:
        location: The node.
        added: The error after the step minus the error before it.
    """

    location: NodeLocation
    added: float


@dataclass(frozen=True)
class Rounding:
    """How far an explanation is from the same explanation in double precision.

    Both start from the same initial relevance. The difference includes what rounding changes in the forward values,
    such as which element of a window of max pooling is the largest.

    Args:
        error: The norm of the difference of the requested relevance over the norm of that in double precision; NaN if
            they were not compared.
        cosine: The cosine of the two; NaN as for ``error``.
        losses: What each step adds to the error, the largest first.
        problem: Why they were not compared; empty if they were.
    """

    error: float
    cosine: float
    losses: tuple[Loss, ...] = ()
    problem: str = ""

    @property
    def is_visible(self) -> bool:
        """Whether the error is more than one percent."""
        return self.error > VISIBLE

    @property
    def is_dominant(self) -> bool:
        """Whether the error is more than half of the relevance, which then says little about the model."""
        return self.error > DOMINANT

    def __str__(self) -> str:
        """Return the verdict, and if rounding is visible, the node that adds the most and what to do."""
        if self.problem:
            return f"rounding: not compared with double precision, because {self.problem}"
        verdict = "dominates" if self.is_dominant else "is visible" if self.is_visible else "is small"
        line = f"rounding {verdict}: {self.error:.2g} of the relevance, with a cosine of {self.cosine:.3f}"
        if not self.is_visible or not self.losses:
            return line
        return f"{line}\nmost of it is added at {self.losses[0].location}\n{ADVICE}"


@dataclass(frozen=True)
class _Sized:
    """Sums of absolute values: of an error, and of the relevance that has it."""

    error: float
    relevance: float

    @staticmethod
    def sum(parts: Iterable[_Sized]) -> _Sized:
        """Return the sums of several tensors."""
        known = list(parts)
        return _Sized(sum(each.error for each in known), sum(each.relevance for each in known))

    @property
    def ratio(self) -> float:
        """The error as a fraction of the relevance."""
        return self.error / self.relevance if self.relevance else 0.0


class RoundingObserver:
    """Computes every node of an explanation in double precision as well, and compares the relevance."""

    def __init__(self, steps: StepByStep, flows: Sequence[NodeFlow]) -> None:
        """Start before the first node.

        Args:
            steps: The explanation.
            flows: Its steps that lead to the requested relevance, from the output back.
        """
        self._steps, self._flows = steps, flows
        self._wide: dict[fx.Node, Any] = {}
        self._sizes: dict[fx.Node, _Sized] = {}
        self._relevances = {steps.start, *(each for flow in flows for each in (*flow.received, *flow.passed_on))}
        self._ends = {relevance for _, relevance in steps.ends}
        self._squares = [0.0, 0.0, 0.0, 0.0]
        self._last_uses = last_uses(tuple(steps.program.graph.nodes))
        model = steps.program.graph_module
        self._is_narrow = any(each.dtype in _WIDE for each in (*model.parameters(), *model.buffers()))
        self._problem = ""

    def __call__(self, node: fx.Node, value: Any) -> None:
        """Compute and compare the value of a node, given that of the explanation."""
        if node.op == "placeholder":
            self._is_narrow |= isinstance(value, Tensor) and value.dtype in _WIDE
        elif not self._is_narrow:
            self._problem = "it is in double precision"
        if self._problem or node.op == "output":
            return
        try:
            self._compute(node, value)
        except Exception as error:
            # The explanation is valid without the comparison: a kernel or a device may not have double precision.
            self._problem = f"{node.name} does not run in it: {type(error).__name__}: {error}".splitlines()[0]
            self._wide.clear()
        for each in self._last_uses.get(node, ()):
            self._wide.pop(each, None)

    def _compute(self, node: fx.Node, value: Any) -> None:
        is_given = node.op != "call_function" or node is self._steps.start
        wide = pytree.tree_map(_widened, value) if is_given else _call(node, self._wide)
        self._wide[node] = wide
        if node in self._relevances:
            self._sizes[node] = _Sized(float((_widened(value) - wide).abs().sum()), float(wide.abs().sum()))
        if node in self._ends:
            self._compare(_widened(value), wide)

    def _compare(self, own: Tensor, wide: Tensor) -> None:
        own, wide = (torch.view_as_real(each) if each.is_complex() else each for each in (own, wide))
        found = (own - wide).square().sum(), wide.square().sum(), own.square().sum(), (own * wide).sum()
        self._squares = [before + float(each) for before, each in zip(self._squares, found, strict=True)]

    def result(self) -> Rounding:
        """Return the comparison after the last node."""
        difference, wide, own, product = self._squares
        problem = self._problem
        if not problem and not all(map(math.isfinite, self._squares)):
            problem = "it is not finite"
        if problem or not wide > 0:
            return Rounding(math.nan, math.nan, problem=problem or "there is no relevance")
        cosine = product / math.sqrt(wide * own) if own > 0 else math.nan
        return Rounding(math.sqrt(difference / wide), cosine, self._losses())

    def _losses(self) -> tuple[Loss, ...]:
        """What each step adds to the error of all relevance that is on its way, as a fraction of that relevance."""
        vocabulary = self._steps.program.vocabulary
        waiting = {self._steps.explained: self._sizes[self._steps.start]}
        losses = []
        for flow in self._flows:
            # Contributions to a value may cancel when they are summed.
            waiting[flow.node] = _Sized.sum(self._sizes[each] for each in flow.received)
            before = _Sized.sum(waiting.values()).ratio
            del waiting[flow.node]
            for to, passed in zip(receivers(flow.node, vocabulary), flow.passed_on, strict=True):
                waiting[to] = _Sized.sum((waiting.get(to, _Sized(0.0, 0.0)), self._sizes[passed]))
            added = _Sized.sum(waiting.values()).ratio - before
            losses.append(Loss(NodeLocation.of(flow.node, vocabulary), added))
        return tuple(sorted(losses, key=lambda each: -each.added))


def _call(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """Compute a node; types that it names are those of double precision."""
    assert callable(node.target)

    def argument(each: Any) -> Any:
        if isinstance(each, fx.Node):
            return values[each]
        return _WIDE.get(each, each) if isinstance(each, torch.dtype) else each

    args = [fx.node.map_aggregate(each, argument) for each in node.args]
    kwargs = {name: fx.node.map_aggregate(each, argument) for name, each in node.kwargs.items()}
    return node.target(*args, **kwargs)


def _widened(value: Any) -> Any:
    return value.to(_WIDE[value.dtype]) if isinstance(value, Tensor) and value.dtype in _WIDE else value

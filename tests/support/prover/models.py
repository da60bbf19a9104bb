"""Random models as data: which part reads which values. They are printed by the steps that make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies
from torch import Tensor, nn

from prover.parts import PARTS, SIZES, Part

CLASSES = 3


@dataclass(frozen=True)
class Step:
    """A call of a part.

    Args:
        part: The part.
        reads: The positions of the values that it reads; 0 is the input.
        shares: The position of an earlier step of the same part whose module this one calls again; None for its own.
    """

    part: Part
    reads: tuple[int, ...]
    shares: int | None = None

    def __str__(self) -> str:
        again = "" if self.shares is None else f" (the module of step {self.shares})"
        return f"{self.part.name}({', '.join(f'v{index}' for index in self.reads)}){again}"


@dataclass(frozen=True)
class Program:
    """A model.

    Args:
        kind: The kind of its input.
        steps: Its steps; step ``i`` gives the value ``i + 1``.
        seed: Of the weights and the input.
    """

    kind: str
    steps: tuple[Step, ...]
    seed: int

    @property
    def kinds(self) -> list[str]:
        """The kinds of all values."""
        return [self.kind, *(step.part.gives for step in self.steps)]

    def build(self) -> tuple[nn.Module, Tensor]:
        """Return the model, in double precision, and inputs for it."""
        torch.manual_seed(self.seed)
        model = _Model(self).double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_var is not None:
                module.running_var.uniform_(0.5, 2.0)
                assert module.running_mean is not None
                module.running_mean.normal_(0.0, 0.3)
        return model, torch.randn(2, *SIZES[self.kind], dtype=torch.float64)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the steps of a program that hypothesis reports."""
        printer.text(repr(self))

    def __repr__(self) -> str:
        lines = [f"v0 = input ({self.kind})", *(f"v{i} = {step}" for i, step in enumerate(self.steps, 1))]
        return "\n".join([f"seed {self.seed}", *lines])


class _Model(nn.Module):
    def __init__(self, program: Program) -> None:
        super().__init__()
        self._reads = [step.reads for step in program.steps]
        own: list[nn.Module] = []
        for step in program.steps:
            own.append(step.part.make() if step.shares is None else own[step.shares - 1])
        self.steps = nn.ModuleList(own)
        self._heads = program.kinds[-1]
        self.head = nn.Linear(SIZES[self._heads][0] if self._heads == "image" else 6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        # A copy, which parts may change in place.
        values = [x.clone()]
        for step, reads in zip(self.steps, self._reads, strict=True):
            values.append(step(*(values[index] for index in reads)))
        last = values[-1]
        if self._heads == "seq":
            last = last.mean(1)
        elif self._heads == "image":
            last = last.mean((2, 3))
        out: Tensor = self.head(last)
        return out


@strategies.composite
def programs(draw: strategies.DrawFn, *, fits: Callable[[Part], bool] = lambda part: True, steps: int = 8) -> Program:
    """Programs of the parts that fit. Later values are read more often, and modules are often called twice."""
    kind = draw(strategies.sampled_from(sorted(SIZES)))
    kinds = [kind]
    made: list[Step] = []
    for _ in range(draw(strategies.integers(1, steps))):
        possible = [each for each in PARTS if fits(each) and all(read in kinds for read in each.reads)]
        part = draw(strategies.sampled_from(possible))
        reads = tuple(draw(_positions(kinds, each)) for each in part.reads)
        earlier = [index for index, step in enumerate(made, 1) if step.part is part and step.shares is None]
        shares = draw(strategies.sampled_from([None, *earlier])) if earlier else None
        made.append(Step(part, reads, shares))
        kinds.append(part.gives)
    return Program(kind, tuple(made), draw(strategies.integers(0, 1000)))


def _positions(kinds: list[str], kind: str) -> strategies.SearchStrategy[int]:
    """The last value of a kind as often as all the others."""
    found = [index for index, each in enumerate(kinds) if each == kind]
    return strategies.one_of(strategies.just(found[-1]), strategies.sampled_from(found))

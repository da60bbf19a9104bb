"""Random models as data: which part reads which values. They are printed by the steps that make them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies
from torch import Tensor, nn

from prover.parts import PARTS, SIZES, Part
from prover.rows import WEIGHTED, part_of, ways
from prover.shapes import BATCH, Shape, elements, fitted

CLASSES = 3
TOKENS = 7
# The kinds of inputs. Tokens are embedded as a sequence.
KINDS = (*SIZES, "tokens")
LARGEST = 1e6
# So many ways to call a row are tried before another part is taken.
ATTEMPTS = 6


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
    def shapes(self) -> list[Shape]:
        """The shapes of all values without the batch."""
        shapes = [SIZES["seq" if self.kind == "tokens" else self.kind]]
        for step in self.steps:
            shapes.append(shape_of(step.part, [shapes[index] for index in step.reads]))
        return shapes

    @property
    def changes(self) -> bool:
        """Whether a step changes a value in place."""
        return any(step.part.changes for step in self.steps)

    @property
    def mixes(self) -> bool:
        """Whether a step mixes the samples of a batch."""
        return any(step.part.mixes for step in self.steps)

    @property
    def precision(self) -> torch.dtype:
        """The least precise type through which values pass."""
        types = [torch.float64, *(step.part.precision for step in self.steps)]
        return max(types, key=lambda dtype: torch.finfo(dtype).eps)

    def build(self) -> tuple[Model, Tensor]:
        """Return the model, in double precision, and inputs for it."""
        torch.manual_seed(self.seed)
        model = Model(self).double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_var is not None:
                module.running_var.uniform_(0.5, 2.0)
                assert module.running_mean is not None
                module.running_mean.normal_(0.0, 0.3)
        if self.kind == "tokens":
            return model, torch.randint(TOKENS, (BATCH, 4))
        return model, torch.randn(BATCH, *SIZES[self.kind], dtype=torch.float64)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the steps of a program that hypothesis reports."""
        printer.text(repr(self))

    def __repr__(self) -> str:
        lines = [f"v0 = input ({self.kind})", *(f"v{i} = {step}" for i, step in enumerate(self.steps, 1))]
        return "\n".join([f"seed {self.seed}", *lines])


class Model(nn.Module):
    """Makes the values of a program one after the other, and adds up linear maps of those that no step reads."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program, self._shapes = program, program.shapes
        self.embedding = nn.Embedding(TOKENS, SIZES["seq"][-1]) if program.kind == "tokens" else None
        own: list[nn.Module] = []
        for step in program.steps:
            own.append(step.part.make() if step.shares is None else own[step.shares - 1])
        self.steps = nn.ModuleList(own)
        read = {index for step in program.steps for index in step.reads}
        self._unread = [index for index in range(len(self._shapes)) if index not in read]
        self.heads = nn.ModuleList(nn.Linear(elements(self._shapes[index]), CLASSES) for index in self._unread)

    def values(self, x: Tensor) -> list[Tensor]:
        """All values."""
        # A copy, which parts may change in place.
        values = [x.clone() if self.embedding is None else self.embedding(x)]
        for step, module in zip(self._program.steps, self.steps, strict=True):
            own = [self._shapes[index] for index in step.reads]
            given = [
                fitted(values[index], shape, wanted)
                for index, shape, wanted in zip(step.reads, own, wanted_shapes(step.part, own), strict=True)
            ]
            values.append(module(*given))
        return values

    def forward(self, x: Tensor) -> Tensor:
        values = self.values(x)
        flat = [fitted(values[index], self._shapes[index], (elements(self._shapes[index]),)) for index in self._unread]
        first, *others = (head(value) for head, value in zip(self.heads, flat, strict=True))
        out: Tensor = sum(others, start=first)
        return out

    def is_moderate(self, x: Tensor) -> bool:
        """Whether the model runs, and no value is infinite or so large that rounding errors are all that is left."""
        try:
            with torch.no_grad():
                return all(bool((value.abs() < LARGEST).all()) for value in (*self.values(x), self(x)))
        except RuntimeError as error:
            # PyTorch changes no expanded value in place.
            if "refers to a single memory location" in str(error):
                return False
            raise


def shape_of(part: Part, shapes: Sequence[Shape]) -> Shape:
    """The shape of the result of a part that reads values of these shapes."""
    return wanted_shapes(part, shapes)[0] if part.gives is None else part.gives


def wanted_shapes(part: Part, shapes: Sequence[Shape]) -> list[Shape]:
    """The shapes in which a part takes values of these shapes."""
    any_shape = shapes[0] or (1,)
    return [any_shape if wanted is None else wanted for wanted in part.reads]


@strategies.composite
def programs(
    draw: strategies.DrawFn,
    *,
    fits: Callable[[Part], bool] = lambda part: True,
    kinds: Sequence[str] = KINDS,
    steps: int = 7,
    rows: int = 5,
) -> Program:
    """Programs of the parts that fit, and of rows of the vocabulary in ``rows`` of ten steps.

    Later values are read more often, and modules are often called twice.
    """
    kind = draw(strategies.sampled_from(kinds))
    written = _written(fits)
    made: list[Step] = []
    for _ in range(draw(strategies.integers(1, steps))):
        shapes = Program(kind, tuple(made), 0).shapes
        part = draw(strategies.sampled_from(written))
        if draw(strategies.integers(0, 9)) >= 10 - rows:
            part = draw(_rows(fits)) or part
        reads = tuple(draw(_positions(shapes, wanted)) for wanted in part.reads)
        earlier = [index for index, step in enumerate(made, 1) if step.part is part and step.shares is None]
        shares = draw(strategies.sampled_from([None, *earlier])) if earlier else None
        made.append(Step(part, reads, shares))
    return Program(kind, tuple(made), draw(strategies.integers(0, 1000)))


_CHOSEN: dict[Callable[[Part], bool], tuple[Part, ...]] = {}


def _written(fits: Callable[[Part], bool]) -> tuple[Part, ...]:
    if fits not in _CHOSEN:
        _CHOSEN[fits] = tuple(each for each in PARTS if fits(each))
    return _CHOSEN[fits]


@strategies.composite
def _rows(draw: strategies.DrawFn, fits: Callable[[Part], bool]) -> Part | None:
    """A way to call a row that fits; None if there is none among the next ways."""
    name = draw(strategies.sampled_from(WEIGHTED))
    possible = ways(name)
    first = draw(strategies.integers(0, len(possible) - 1))
    for number in range(ATTEMPTS):
        # Far from each other: neighbours are often impossible for the same reason.
        part = part_of(name, possible[(first + 7 * number) % len(possible)])
        if part is not None and fits(part):
            return part
    return None


def _positions(shapes: list[Shape], wanted: Shape | None) -> strategies.SearchStrategy[int]:
    """The last value, and those of the shape that is wanted, as often as all others."""
    found = [index for index, shape in enumerate(shapes) if shape == wanted] or [len(shapes) - 1]
    return strategies.one_of(
        strategies.just(len(shapes) - 1), strategies.sampled_from(found), strategies.integers(0, len(shapes) - 1)
    )

"""Random models as data: which part reads which values. They are printed by the steps that make them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prover.parts import PARTS, SIZES, Part
from prover.rows import WEIGHTED, part_of, ways
from prover.shapes import BATCH, Shape, elements, fitted

CLASSES = 3
TOKENS = 7
# The kinds of inputs. Tokens are embedded as a sequence.
KINDS = (*SIZES, "tokens")
LARGEST = 1e6
# So many rows, and so many ways to call each, are tried before another part is taken.
ATTEMPTS = 8


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
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            # A matrix is singular, or not finite.
            return False
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


class Turns:
    """Gives every row of the vocabulary its turn: each once, then the others of their number, and so on.

    Args:
        generator: Decides on the order, which differs from round to round.
    """

    def __init__(self, generator: random.Random) -> None:
        self._generator, self._waiting = generator, list[str]()

    def take(self) -> str:
        """Return the row whose turn it is."""
        if not self._waiting:
            others = Counter(WEIGHTED) - Counter(set(WEIGHTED))
            for names in (sorted(others.elements()), sorted(set(WEIGHTED))):
                self._generator.shuffle(names)
                self._waiting += names
        return self._waiting.pop()


def programs(
    seed: int | str,
    *,
    fits: Callable[[Part], bool] = lambda part: True,
    kinds: Sequence[str] = KINDS,
    steps: int = 7,
    rows: int = 5,
) -> Iterator[Program]:
    """Programs without end, of the parts that fit, and of rows of the vocabulary in ``rows`` of ten steps.

    The rows take turns. Later values are read more often, and modules are often called twice.
    """
    generator = random.Random(seed)
    turns, written = Turns(generator), [each for each in PARTS if fits(each)]
    while True:
        kind = generator.choice(kinds)
        made: list[Step] = []
        for _ in range(generator.randint(1, steps)):
            shapes = Program(kind, tuple(made), 0).shapes
            is_row = generator.randrange(10) < rows
            part = (_row(generator, turns, fits) if is_row else None) or generator.choice(written)
            reads = tuple(_position(generator, shapes, wanted) for wanted in part.reads)
            earlier = [index for index, step in enumerate(made, 1) if step.part is part and step.shares is None]
            made.append(Step(part, reads, generator.choice([None, *earlier])))
        yield Program(kind, tuple(made), generator.randint(0, 1000))


def _row(generator: random.Random, turns: Turns, fits: Callable[[Part], bool]) -> Part | None:
    """A way to call the next row that fits; None if there is none among the next rows."""
    for _ in range(ATTEMPTS):
        name = turns.take()
        possible = list(ways(name))
        generator.shuffle(possible)
        for way in possible[:ATTEMPTS]:
            part = part_of(name, way)
            if part is not None and fits(part):
                return part
    return None


def _position(generator: random.Random, shapes: list[Shape], wanted: Shape | None) -> int:
    """The last value, or one of the shape that is wanted, or any."""
    last = len(shapes) - 1
    found = [index for index, shape in enumerate(shapes) if shape == wanted] or [last]
    return generator.choice([last, generator.choice(found), generator.randint(0, last)])

"""Programs aimed at passes: pairs and triples of operations around which a pass applies, chosen by facts of rows."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import Optimizations, rules
from fxlrp.errors import SymbolicTraceError
from fxlrp.operation import Family, Operation
from fxlrp.passes.pipeline import EXPLANATION
from fxlrp.relevance import implementation
from fxlrp.rules.preset import Preset
from prover.checks import GAMMA, TOLERANCE, LeftOutError, assert_close, preset, refusals
from prover.models import CLASSES, Model, Program, Step
from prover.parts import PARTS, SIZES, Part
from prover.rows import WRITABLE, Fitted, Way, fit, numbers, part_of, settings_of, ways
from prover.shapes import BATCH, Shape

DERIVED = (Family.TRANSFORM, Family.SELECTION, Family.FUNCTION, Family.MATRIX_FUNCTION)
SIGNED: Sequence[Preset] = (
    preset("excitation_backprop"),
    preset("epsilon", ("linear", rules.AlphaBeta())),
    preset("epsilon", ("linear", GAMMA)),
)
EVERY: Sequence[Preset] = (preset("epsilon"), preset("attnlrp"), preset("cplrp"), *SIGNED)
SUPPORTED: Sequence[Preset] = (
    preset("epsilon", ("linear", GAMMA)),
    preset("attnlrp", ("linear", GAMMA)),
    preset("epsilon", ("linear", rules.AlphaBeta())),
)
FIRST: Sequence[Preset] = (
    preset("epsilon_plus_flat"),
    preset("epsilon", ("linear", rules.WSquare())),
    preset("epsilon_gamma_box", low=-4.0, high=4.0),
)
"""Presets with a rule for the first layer that is partly the same for all samples."""


def dense(shape: Shape, *, bias: bool = True) -> Part:
    """A dense layer for the last dimension of a value."""
    return Part(f"dense{shape}", (shape,), shape, functools.partial(nn.Linear, shape[-1], shape[-1], bias))


def written(name: str) -> Part:
    """A part that is written by hand."""
    return next(part for part in PARTS if part.name == name)


# What is known of the values of a row, for the choice of the way to call it.


def turns_negative(fits: Fitted) -> bool:
    """Whether the result has negative elements although no operand has any: a ReLU precedes the operation."""
    return fits.way.rectified and bool((_result(fits) < 0).any())


def shares_memory(fits: Fitted) -> bool:
    """Whether the result is a view of the operand."""
    values = _values(fits)
    with torch.no_grad():
        result = fits.make()(*values)
    return fits.kinds == ("real",) and result.untyped_storage().data_ptr() == values[0].untyped_storage().data_ptr()


def any_way(fits: Fitted) -> bool:
    return True


def in_shape(fits: Fitted) -> bool:
    """Whether the row keeps positions: ``(batch, 4, 6)``."""
    return fits.gives == SIZES["seq"] and set(fits.reads) == {SIZES["seq"]} and fits.way.batch == "front"


def _values(fits: Fitted) -> list[Tensor]:
    return [numbers(BATCH, shape, index) for index, shape in enumerate(fits.reads)]


def _result(fits: Fitted) -> Tensor:
    with torch.no_grad():
        result: Tensor = fits.make()(*_values(fits))
    return result


# Where the row stands.


def between_layers(row: Part) -> list[Part]:
    """A ReLU before the row, a layer before the ReLU, and a layer behind the row."""
    return [*_layer(row.reads[0]), written("relu"), row, *_layer(row.gives)]


def behind_layer(row: Part) -> list[Part]:
    return [*_layer(row.reads[0]), row, *_layer(row.gives)]


def behind_sum(row: Part) -> list[Part]:
    return [*_layer(row.reads[0]), written("double"), row, written("relu"), *_layer(row.gives)]


def before_first_layer(row: Part) -> list[Part]:
    return [row, *_layer(row.gives)]


def before_change(row: Part) -> list[Part]:
    """What the row gives is changed in place, and both are read."""
    return [*_layer(row.reads[0]), row, written("scaled_in_place")]


def before_positions(row: Part) -> list[Part]:
    return [written("attention, causal"), row, written("gelu"), row]


def repeated(row: Part) -> list[Part]:
    return [*_layer(row.reads[0]), *(row, *_layer(row.gives), written("relu")) * 3]


def _layer(shape: Shape | None) -> list[Part]:
    return [dense(shape)] if shape else []


@dataclass(frozen=True)
class Aim:
    """What a pass is to be tried on.

    Args:
        states: Tells whether a row states what the pass relies on.
        place: Where the row stands.
        presets: The rules under which the pass has something to do.
        prefers: The ways to call a row that matter most, by its values.
        only: Whether other ways do not matter.
        positions: Whether the output has positions, of which the target selects one.
        parts: Parts that are written by hand, which stand where rows do.
        matters: Tells which rows are tried most often.
        turns: How often the pass takes its turn. Those that rely on facts of most rows need more.
    """

    states: Callable[[Operation], bool]
    place: Callable[[Part], list[Part]] = between_layers
    presets: Sequence[Preset] = EVERY
    prefers: Callable[[Fitted], bool] = any_way
    only: bool = False
    positions: bool = False
    parts: tuple[str, ...] = ()
    matters: Callable[[Operation], bool] = lambda row: False
    turns: int = 2


def _carries(operation: Operation) -> bool:
    return operation.family is not Family.NO_RELEVANCE


def _is_written(operation: Operation) -> bool:
    """Whether its relevance is no derived step."""
    return _carries(operation) and operation.family not in DERIVED


def _contributes(operation: Operation) -> bool:
    """Whether relevance is shared among contributions, and does not follow elements."""
    rule = EVERY[0].default(operation.family)
    how = None if rule is None else implementation(operation, rule)
    return how is not None and not how.follows


AIMS: Mapping[str, Aim] = {
    "fuse_attention": Aim(
        lambda row: row.family in (Family.ATTENTION, Family.SOFTMAX) or row.name == "scaled_dot_product_attention",
        behind_layer,
        parts=tuple(part.name for part in PARTS if part.name.startswith("attention")),
    ),
    "infer_signs": Aim(lambda row: row.non_negative is not None, presets=SIGNED, prefers=turns_negative, turns=6),
    "infer_support": Aim(_is_written, presets=SUPPORTED, matters=_contributes, turns=6),
    "carry_quotients": Aim(_is_written, behind_sum),
    "select_positions": Aim(
        lambda row: row.rowwise is not None, before_positions, prefers=in_shape, only=True, positions=True
    ),
    "release_values": Aim(lambda row: row.moves or row.allocates, behind_layer),
    "recompute_values": Aim(lambda row: row.is_cheap),
    "share_across_batch": Aim(lambda row: row.neutral, before_first_layer, FIRST),
    "keep_constants": Aim(lambda row: row.family in (Family.LINEAR, Family.NORMALIZATION), presets=SIGNED),
    "keep_pool_indices": Aim(lambda row: row.family is Family.MAX_POOL),
    "reuse_memory": Aim(lambda row: row.in_place is not None or not row.allocates, behind_sum),
    # It is for programs that torch.compile compiles, and slow without.
    "nest_regions": Aim(lambda row: row.elementwise or row.family is Family.LINEAR, repeated, turns=0),
    "functionalize": Aim(
        lambda row: _carries(row) and not row.multiple_results, before_change, prefers=shares_memory, only=True, turns=6
    ),
}
"""The passes, and what they are tried on. All but the last can be switched off; that is compared with export."""

WAYS_TRIED = 30


@dataclass(frozen=True)
class Aimed:
    """A program for a pass.

    Args:
        name: The pass.
        program: The program.
        preset: Its rules.
    """

    name: str
    program: Program
    preset: Preset

    def __str__(self) -> str:
        return f"{self.program}\nwith the rules {self.preset.name}, for the pass {self.name}"


def aimed(name: str, seed: int) -> Iterator[Aimed]:
    """Programs for a pass without end: one row after the other, each called in one of its ways."""
    aim, generator = AIMS[name], random.Random(seed)
    rows: list[str | Part] = [row for row in WRITABLE if settings_of(row) and aim.states(WRITABLE[row])]
    rows += [row for row in rows if isinstance(row, str) and aim.matters(WRITABLE[row]) for _ in range(2)]
    rows += [part for part in PARTS if part.name in aim.parts]
    number = 0
    while True:
        generator.shuffle(rows)
        for row in rows:
            part = row if isinstance(row, Part) else _part(row, aim, generator)
            if part is None or part.gives is None:
                continue
            number += 1
            chain, steps = aim.place(part), list[Step]()
            for index, each in enumerate(chain):
                shares = chain.index(each) + 1 if each.reads == (None,) and chain.index(each) < index else None
                steps.append(Step(each, (index,) * len(each.reads), shares))
            if aim.place is before_change:
                steps.append(Step(written("add"), (len(chain) - 2, len(chain))))
            kind = next((kind for kind, shape in SIZES.items() if shape == chain[0].reads[0]), "seq")
            chosen = aim.presets[number % len(aim.presets)]
            yield Aimed(name, Program(kind, tuple(steps), generator.randrange(1000)), chosen)


def _part(row: str, aim: Aim, generator: random.Random) -> Part | None:
    """A way to call a row that the aim prefers, or one of the others."""
    possible = [way for way in ways(row) if way.batch != "mixed" and not way.in_place]
    generator.shuffle(possible)
    found: Way | None = None
    for way in possible[:WAYS_TRIED]:
        fits = fit(row, way)
        if fits is None:
            continue
        if aim.prefers(fits):
            return part_of(row, way)
        found = found or way
    return part_of(row, found) if found is not None and not aim.only else None


class _Positions(nn.Module):
    """The output of a program at each position."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(SIZES["seq"][-1], CLASSES).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.model.values(x)[-1])
        return out


def holds(aimed: Aimed) -> bool | None:
    """Compare the program with the pass and without it.

    Returns:
        Whether the pass applied; None if the program is left out: its values are too large, or fxlrp refuses it.
    """
    made, x = aimed.program.build()
    if not made.is_moderate(x):
        return None
    positions = AIMS[aimed.name].positions
    model: nn.Module = _Positions(made).eval() if positions else made
    target = (1, 1) if positions else 1
    tolerance = TOLERANCE[aimed.program.precision]
    try:
        with refusals():
            explainers = _explainers(aimed, model, x)
    except (LeftOutError, SymbolicTraceError):
        return None
    chosen, other = (explain(x, target=target) for explain in explainers)
    assert_close(chosen, other, tolerance)
    if not positions:
        with torch.no_grad():
            assert_close(explainers[0](x, target=target, return_output=True)[1], model(x), tolerance)
    stages = explainers[0].stages
    assert stages is not None
    return any(stage.name == aimed.name and stage.count > 0 for stage in stages)


def _explainers(aimed: Aimed, model: nn.Module, x: Tensor) -> tuple[fxlrp.Explainer, fxlrp.Explainer]:
    def compiled(**options: object) -> fxlrp.Explainer:
        return fxlrp.compile(model, aimed.preset, example_inputs=x, **options)  # type: ignore[arg-type]

    if aimed.name == "functionalize":
        return compiled(capture="symbolic", debug=True), compiled(capture="export")
    base = Optimizations() if aimed.program.seed % 2 else _those_before(aimed.name)
    with_pass, without = (dataclasses.replace(base, **{aimed.name: is_on}) for is_on in (True, False))
    return compiled(optimize=with_pass, debug=True), compiled(optimize=without)


def _those_before(name: str) -> Optimizations:
    """The optimizations that the pass follows, on whose facts it may rely."""
    (followed,) = {each.after for each in EXPLANATION if each.name == name}
    fields = {field.name for field in dataclasses.fields(Optimizations)}
    return dataclasses.replace(Optimizations.none(), **dict.fromkeys(followed & fields, True))

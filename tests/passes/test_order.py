"""The order of the passes: what matters is declared, so that a wrong order is an error and not a wrong answer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from fxlrp.capture.symbolic import capture
from fxlrp.errors import InputError, InternalError
from fxlrp.inputs import Inputs
from fxlrp.passes import compiler_pass, pipeline
from fxlrp.passes.base import Pass, check_order, run_passes
from fxlrp.program import Options, Program
from fxlrp.question import Question
from fxlrp.rules.presets import epsilon_plus_flat
from fxlrp.vocabulary import CANONICAL
from oracles import One, assert_relevance, random

ORDERS = {"explanation": pipeline.EXPLANATION, "backward": pipeline.BACKWARD}


class InPlace(nn.Module):
    """In-place activations, a folded BatchNorm, max pooling, a dropout, a skip, a composite operation and a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act, self.pool, self.drop = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout()
        self.again, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.norm(self.conv(x))))
        x = x + self.act(self.again(self.drop(x)))
        x = torch.var_mean(x, (2, 3))[1] * 2
        return self.head(x.contiguous() * torch.sigmoid(x))


def attend(x: Tensor) -> Tensor:
    """Attention, and a gate whose value is computed again."""
    y = (x @ x.transpose(-2, -1)).softmax(-1) @ x
    return nn.functional.linear(y * nn.functional.silu(y), random(3, 4, seed=3))


def nets() -> dict[str, tuple[nn.Module, Tensor]]:
    names = ("residual", "dense_block", "gated")
    found = {name: zoo.small_net(name) for name in zoo.SMALL_NETS if name in names}
    made = {name: (model, inputs[0]) for name, (model, inputs) in found.items() if len(inputs) == 1}
    torch.manual_seed(0)
    attention = One(attend).eval(), random(2, 5, 4)
    return {**made, "in place": (InPlace().double().eval(), random(2, 2, 8, 8)), "attention": attention}


NETS = nets()


def program_of(
    model: nn.Module, x: Tensor, *, stacked: bool = False, output: str | None = None, returns_output: bool = False
) -> Program:
    inputs, question = Inputs.of(model, x), Question(stacked=stacked, returns_output=returns_output)
    options = Options(epsilon_plus_flat(), question, segments=2, examples=inputs.specs)
    return Program(capture(model, inputs, output=output), CANONICAL, options)


def answer(passes: tuple[Pass, ...], model: nn.Module, x: Tensor, *, stacked: bool = False, **options: Any) -> Tensor:
    program = program_of(model, x, stacked=stacked, **options)
    run_passes(program, passes)
    program.graph_module.recompile()
    with torch.no_grad():
        found = program.graph_module(x.clone(), None, None)
    relevance: Tensor = found[0] if isinstance(found, tuple) else found
    return relevance[0] if stacked else relevance


def swapped(passes: tuple[Pass, ...], first: int, second: int) -> tuple[Pass, ...]:
    order = list(passes)
    order[first], order[second] = order[second], order[first]
    return tuple(order)


@pytest.mark.parametrize("name", ORDERS)
def test_the_orders_are_right(name: str) -> None:
    check_order(ORDERS[name])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(len(pipeline.EXPLANATION)), ids=lambda index: pipeline.EXPLANATION[index].name)
def test_a_swap_is_refused_or_changes_no_answer(first: int) -> None:
    passes = pipeline.EXPLANATION
    expected = {name: answer(without_checkpoint(passes), *net) for name, net in NETS.items()}
    inside = answer(without_checkpoint(passes), *NETS["in place"], output="again")
    for second in range(first + 1, len(passes)):
        order = swapped(passes, first, second)
        try:
            check_order(order)
        except InternalError:
            continue
        assert_relevance(answer(order, *NETS["in place"], output="again"), inside, 1e-10)
        returning = answer(order, *NETS["attention"], returns_output=True)
        assert_relevance(returning, expected["attention"], 1e-10)
        for name, net in NETS.items():
            assert_relevance(answer(order, *net), expected[name], 1e-10)
            assert_relevance(answer(without_checkpoint(order), *net), expected[name], 1e-10)
            assert_relevance(answer(order, *net, stacked=True), expected[name], 1e-10)


def without_checkpoint(passes: tuple[Pass, ...]) -> tuple[Pass, ...]:
    return tuple(each for each in passes if each.name != "checkpoint")


def test_the_nets_exercise_the_passes() -> None:
    counts: dict[str, int] = {}
    without_regions = tuple(each for each in pipeline.EXPLANATION if each.name != "nest_regions")
    orders = (without_regions, tuple(each for each in without_regions if each.name != "checkpoint"))
    for (model, x), passes, stacked in itertools.product(NETS.values(), orders, (False, True)):
        for name, count in run_passes(program_of(model, x, stacked=stacked), passes).items():
            counts[name] = counts.get(name, 0) + count
    counts["start_inside"] += run_passes(program_of(*NETS["in place"], output="again"), orders[0])["start_inside"]
    returning = program_of(*NETS["attention"], returns_output=True)
    counts["read_whole_positions"] += run_passes(returning, orders[0])["read_whole_positions"]
    on_devices = {"gather_again", "merge_layouts", "read_redistributed"}  # tests/distributed/ has nets for these
    assert not [name for name, count in counts.items() if count == 0 and name not in on_devices]


@pytest.mark.parametrize(
    ("early", "late"),
    [
        ("keep_constants", "reuse_memory"),
        ("checkpoint", "reuse_memory"),
        ("keep_pool_indices", "reuse_memory"),
        ("checkpoint", "keep_constants"),
        ("infer_signs", "infer_support"),
        ("carry_quotients", "emit_relevance"),
        ("fold_batch_norm", "infer_dependence"),
        ("functionalize", "normalize"),
        ("remove_identities", "emit_relevance"),
    ],
)
def test_orders_that_are_refused(early: str, late: str) -> None:
    names = [each.name for each in pipeline.EXPLANATION]
    first, second = names.index(early), names.index(late)
    assert first < second
    with pytest.raises(InternalError, match="pass"):
        check_order(swapped(pipeline.EXPLANATION, first, second))


def noop(**where: list[str]) -> Pass:
    def does_nothing(program: Program) -> int:
        return 0

    named: dict[str, Any] = dict(where)
    return compiler_pass(**named)(does_nothing)


def position(order: tuple[Pass, ...], name: str) -> int:
    return max(index for index, each in enumerate(order) if each.name == name)


def test_where_user_defined_passes_are_placed() -> None:
    order = pipeline.place([noop(after=["annotate"])], pipeline.EXPLANATION)
    assert position(order, "does_nothing") == position(order, "annotate") + 1
    order = pipeline.place([noop(before=["emit_relevance"])], pipeline.EXPLANATION)
    assert position(order, "does_nothing") == position(order, "emit_relevance") - 1
    order = pipeline.place([noop(after=["reuse_memory"])], pipeline.EXPLANATION)
    assert position(order, "does_nothing") == position(order, "reuse_memory") + 1
    order = pipeline.place([noop(before=["functionalize"])], pipeline.EXPLANATION)
    assert order[0].name == "does_nothing"
    assert [each for each in order if each.name != "does_nothing"] == list(pipeline.EXPLANATION)


def test_a_pass_is_placed_where_an_optimization_would_be_that_is_switched_off() -> None:
    from fxlrp import Optimizations

    order = pipeline.explanation(Optimizations.none(), user_defined=[noop(after=["infer_signs"])]).all
    assert position(order, "annotate") < position(order, "does_nothing") < position(order, "emit_relevance")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: noop(), "must declare its position"),
        (lambda: noop(after=["no_such_pass"]), "no_such_pass"),
        (lambda: noop(after=["emit_relevance"], before=["annotate"]), "cannot be placed"),
        (lambda: noop(needs=["no such property"], after=["annotate"]), "cannot be placed"),
        (lambda: lambda program: 0, "not a pass"),
        (lambda: Pass("annotate", lambda program: 0, after=frozenset(["normalize"])), "same name as a pass of fxlrp"),
    ],
)
def test_passes_that_cannot_be_placed(make: Callable[[], Pass], match: str) -> None:
    with pytest.raises(InputError, match=match):
        pipeline.place([make()], pipeline.EXPLANATION)


def test_several_passes_keep_their_order() -> None:
    def one(program: Program) -> int:
        return 1

    def two(program: Program) -> int:
        return 2

    passes = [compiler_pass(after=["annotate"])(one), compiler_pass(after=["one"])(two)]
    order = [each.name for each in pipeline.place(passes, pipeline.EXPLANATION)]
    assert order[order.index("annotate") :][:3] == ["annotate", "one", "two"]


def test_every_name_in_a_declaration_is_a_pass() -> None:
    known = {each.name for each in itertools.chain(*ORDERS.values())}
    for each in itertools.chain(*ORDERS.values()):
        assert each.after | each.before <= known


def test_every_property_is_needed() -> None:
    passes = set(itertools.chain(*ORDERS.values()))
    needed, provided = ({name for each in passes for name in names(each)} for names in (_needs, _provides))
    assert provided == needed


def _needs(each: Pass) -> frozenset[str]:
    return each.needs


def _provides(each: Pass) -> frozenset[str]:
    return each.provides

"""What the compiler proves about values is true of values, with operations chosen to break the proofs."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

import fxlrp
import zoo
from fxlrp import rules
from fxlrp.passes.base import run_passes
from fxlrp.passes.emit_relevance import emit_relevance
from fxlrp.passes.remove_dead_code import remove_dead_code
from fxlrp.program import receivers
from fxlrp.vocabulary import CANONICAL
from helpers import Record, as_tuple, slow_ones
from optimization_checks import CONFIGURATIONS, calibrated, small_net, some_configuration, specialized
from optimization_nets import OPERATIONS, PRESETS, Around, initialised, mixed, random_net

slow = pytest.mark.slow


def relevance_of(node: fx.Node, named: dict[str, fx.Node]) -> fx.Node:
    """The relevance of a forward node in the program without optimizations: an activation passes on all it has."""
    if f"r_{node.name}" in named:
        return named[f"r_{node.name}"]
    (user,) = (user for user in node.users if node in receivers(user, CANONICAL))
    assert isinstance(user.meta["fxlrp"].rule, rules.PassThrough)
    return relevance_of(user, named)


def assert_sound(
    model: nn.Module,
    preset: Any,
    *batches: tuple[Tensor, ...],
    configurations: Sequence[str] = (),
    **compiled_with: Any,
) -> tuple[int, int]:
    """Facts about values hold for values, and what is made of them changes no answer; returns how many there are."""
    program = specialized(model, preset, *batches[0])
    non_negative, supported = program.facts.non_negative, program.facts.supported
    program.facts.non_negative = program.facts.supported = program.facts.quotients = frozenset()
    run_passes(program, (emit_relevance, remove_dead_code))
    program.graph_module.recompile()
    named = {node.name: node for node in program.graph.nodes}
    several = {n for n in program.graph.nodes if (op := CANONICAL.operation(n)) is not None and op.multiple_results}
    options = {"rules": preset, "example_inputs": batches[0], **compiled_with}
    explainers = [fxlrp.compile(model, optimize=CONFIGURATIONS[name], **options) for name in configurations]
    for inputs in batches:
        recorder = Record(program.graph_module)
        with torch.no_grad():
            expected = recorder.run(*inputs, None, torch.ones_like)
        values: dict[fx.Node, Any] = recorder.values
        for node in non_negative:
            for value in tree_leaves(values[node]):
                assert not bool((value < 0).any()), f"{node.format_node()} is {float(value.min())}"
        for node in supported - several:
            value, relevance = values[node], values[relevance_of(node, named)]
            outside = relevance[value <= 0].abs()
            limit = 1e-12 * float(relevance.abs().max())
            assert outside.numel() == 0 or float(outside.max()) <= limit, f"{node.format_node()} has relevance there"
        # Where relevance of both signs cancels in a sum, what is left of it is rounding.
        largest = max(float(values[node].abs().max()) for name, node in named.items() if name.startswith("r_"))
        for explain in explainers:
            relevances = as_tuple(explain(*inputs, seed=torch.ones_like))
            for relevance, wanted in zip(relevances, as_tuple(expected), strict=True):
                assert float((relevance - wanted).abs().max()) <= 1e-10 * max(float(wanted.abs().max()), 1e-3 * largest)
    return len(non_negative), len(supported - several)


def variations(*inputs: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """Inputs of both signs, of either, of none, and large ones."""
    changes: tuple[Callable[[Tensor], Tensor], ...] = (
        *(lambda x: x, lambda x: x.abs(), lambda x: -x.abs()),
        *(torch.zeros_like, lambda x: 30 * x),
    )
    return tuple(tuple(map(change, inputs)) for change in changes)


BESIDE = (rules.Gamma(), rules.AlphaBeta(), rules.Epsilon(0.01), rules.ZPlus())


def assert_sound_in_company(turn: int, shift: int) -> None:
    model = initialised(Around(list(OPERATIONS.values())[turn]), turn)
    pairs = [
        *((f"heads.{branch}", BESIDE[(branch + turn + 2 * shift) % 4]) for branch in range(4)),
        *((f"convs.{branch}", BESIDE[(branch + turn + shift) % 2]) for branch in range(4)),
    ]
    x = zoo.images(2, 6, seed=turn)
    assert_sound(model, pairs, *variations(x), configurations=some_configuration(turn + shift))


def alternating(start: int) -> list[Any]:
    """The turns of the operations, of which every other one is a repeat: the company of each differs in two tests."""
    turns = range(len(OPERATIONS))
    return [turn if turn % 2 == start else pytest.param(turn, marks=pytest.mark.repeats) for turn in turns]


@pytest.mark.slow
@pytest.mark.parametrize("turn", alternating(0), ids=list(OPERATIONS))
def test_an_operation_in_any_company(turn: int) -> None:
    """What is proved of its values is so, and its relevance is the same whatever was made of that."""
    assert_sound_in_company(turn, turn % 2)


@slow
@pytest.mark.parametrize("turn", alternating(1), ids=list(OPERATIONS))
def test_an_operation_in_other_company(turn: int) -> None:
    assert_sound_in_company(turn, 1 - turn % 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.SMALL_NETS)
def test_facts_about_small_nets(name: str) -> None:
    model, inputs = small_net(name)
    for preset in (PRESETS["epsilon_gamma_box"], mixed(model, len(name), *inputs)):
        assert_sound(model, preset, *variations(*inputs))


@pytest.mark.sampled(3)
@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(20), *slow_ones(*range(20, 100))])
def test_random_graphs(seed: int) -> None:
    """With one rule for all that can have it, and with rules drawn by lot; some with checkpoints."""
    model, x = random_net(seed)
    for position, preset in enumerate((list(PRESETS.values())[2 + seed % 6], mixed(model, seed, x))):
        configurations = some_configuration(2 * seed + (seed + position) % 2)
        segments = (False, False, True, 3)[seed % 4]
        assert_sound(model, preset, *variations(x), configurations=configurations, checkpoint=segments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tried"),
    [
        # As counted above; googlenet concatenates 9 times, and pools 14 times between 57 convolutions with a ReLU each.
        ("resnet18", (20, 37)),
        ("squeezenet1_0", (39, 63)),
        ("googlenet", (57 + 14 + 9 + 1, 2 * 57 + 14 + 9 + 1)),
        ("mobilenet_v3_small", None),
        pytest.param("efficientnet_b0", None, marks=slow),
        pytest.param("densenet121", None, marks=slow),
    ],
)
def test_facts_about_torchvision_models(name: str, tried: tuple[int, int] | None) -> None:
    model, x = calibrated(name, torch.float64, 32)
    found = assert_sound(model, PRESETS["epsilon_gamma_box"], (x,), (x.abs(),))
    assert tried is None or found == tried

"""With and without optimizations, alone and in every company: the same relevance.

The program without optimizations is held against oracles by other tests; here it is the oracle.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import Optimizations, rules
from fxlrp.errors import InputError
from fxlrp.passes import pipeline
from helpers import repeated, slow_ones
from optimization_checks import (
    CONFIGURATIONS,
    LINEAR_RULES,
    NAMES,
    assert_same,
    calibrated,
    chain,
    is_linear,
    small_net,
    some_configuration,
)
from optimization_nets import PRESETS, evenly, initialised, mixed
from oracles import One, Two, assert_relevance, random

slow = pytest.mark.slow

MAIN_CONFIGURATIONS = ["all", *(f"all but {name}" for name in ("infer_signs", "infer_support", "carry_quotients"))]


def test_the_configurations_are_what_they_say() -> None:
    """Eleven passes of the pipeline have a switch, and each configuration runs another selection of them."""
    optional = tuple(each for each in pipeline.EXPLANATION if each.name in NAMES)
    assert {each.name for each in optional} == set(NAMES) and len(NAMES) == 11
    chosen = {name: pipeline.enabled(optional, each) for name, each in CONFIGURATIONS.items()}
    assert len(CONFIGURATIONS) == 23 == len({frozenset(each.name for each in run) for run in chosen.values()})
    assert chosen["all"] == optional and not pipeline.enabled(optional, Optimizations.none())
    for name in NAMES:
        assert [each.name for each in chosen[f"{name} alone"]] == [name]
        assert {each.name for each in chosen[f"all but {name}"]} == set(NAMES) - {name}
    assert pipeline.enabled(pipeline.ANNOTATED, Optimizations.none()) == pipeline.ANNOTATED


def test_optimize_is_a_bool_or_a_choice() -> None:
    model, _ = small_net("residual")
    codes = [fxlrp.compile(model, optimize=each).code for each in (True, Optimizations(), False, Optimizations.none())]
    assert codes[0] == codes[1] != codes[2] == codes[3]
    for wrong in (None, 1, "all", {"infer_signs": True}):
        with pytest.raises(InputError, match="optimize"):
            fxlrp.compile(model, optimize=wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(zoo.SMALL_NETS)), ids=list(zoo.SMALL_NETS))
def test_small_nets(turn: int) -> None:
    """With the presets, and with rules drawn by lot."""
    model, inputs = small_net(list(zoo.SMALL_NETS)[turn])
    presets = (*list(PRESETS.values())[turn % 2 :: 2], *(mixed(model, seed, *inputs) for seed in (turn, turn + 100)))
    for position, preset in enumerate(presets):
        configurations = some_configuration(turn * (len(presets) + 1) + position)
        compiled_with = {"example_inputs": inputs}
        assert_same(model, preset, *inputs, configurations=configurations, compiled_with=compiled_with)


# ``test_small_nets`` tries each configuration on some of the nets.
@slow
@pytest.mark.parametrize("configuration", repeated(*CONFIGURATIONS))
def test_small_nets_in_every_configuration(configuration: str) -> None:
    for turn, name in enumerate(zoo.SMALL_NETS, list(CONFIGURATIONS).index(configuration)):
        model, inputs = small_net(name)
        for preset in (list(PRESETS.values())[turn % 8], mixed(model, turn, *inputs)):
            compiled_with = {"example_inputs": inputs}
            assert_same(model, preset, *inputs, configurations=[configuration], compiled_with=compiled_with)


WEIGHT, OTHER = random(6, 6, seed=1), random(6, 6, seed=2)
X, Y = random(3, 6, seed=3), random(3, 6, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "pairs"),
    [
        (lambda a, b: F.relu(F.linear(a, WEIGHT)) + F.relu(b), [("add", rules.Magnitude())]),
        (lambda a, b: F.relu(F.linear(a, WEIGHT)) + F.relu(b), [("add", rules.Equal())]),
        (lambda a, b: F.relu(F.linear(a, WEIGHT)) - F.linear(b, OTHER), [("sub", rules.Only(1))]),
        (lambda a, b: F.linear(F.relu(a) * F.relu(b), WEIGHT), [("mul", rules.Uniform())]),
        (lambda a, b: F.linear(F.relu(a) * torch.sigmoid(b), WEIGHT), [("mul", rules.Uniform())]),
        (lambda a, b: F.linear(F.max_pool1d(F.relu(a + b), 2), WEIGHT[:, :3]), [("max_pool1d", rules.Epsilon(0.1))]),
        (lambda a, b: F.linear(F.max_pool1d(a + b, 3, 1, 1), WEIGHT), [("linear", rules.Flat())]),
        (lambda a, b: F.linear(F.relu(F.linear(a * b, WEIGHT)), OTHER), [("linear", rules.ZBox(-3.0, 3.0))]),
        (lambda a, b: F.linear(F.relu(F.linear(a * b, WEIGHT)), OTHER), [("linear", rules.WSquare())]),
        (lambda a, b: F.linear(F.relu(a) + F.relu(b) + F.relu(a), WEIGHT), [("add", rules.Magnitude(0.0))]),
        (lambda a, b: F.linear(F.relu(a @ WEIGHT) @ F.relu(b.T @ b), OTHER), [("matmul", rules.Epsilon(0.1))]),
    ],
    ids="magnitude equal only uniform gate max_pool flat zbox wsquare magnitude_of_0 matmul".split(),
)
def test_unusual_neighbours(function: Callable[[Tensor, Tensor], Tensor], pairs: Any) -> None:
    for rule in (rules.Epsilon(0.0), rules.ZPlus(), rules.AlphaBeta(), rules.Gamma()):
        more = [(is_linear, rule)] if any(map(is_linear, fxlrp.compile(Two(function).eval()).nodes)) else []
        preset = PRESETS["epsilon"].override(more).override(pairs)
        assert_same(Two(function).eval(), preset, X, Y, configurations=MAIN_CONFIGURATIONS, seed=torch.ones_like)


def swish(x: Tensor, slope: float = 1.0) -> Tensor:
    """An activation of a user's own, which capture does not look into."""
    return x * torch.sigmoid(slope * x)


@fxlrp.rule_for(swish)
def half_for_swish(x: Tensor, slope: float = 1.0, *, out: Tensor, relevance: Tensor) -> Tensor:
    return 0.5 * relevance


@fxlrp.rule_for(torch.relu)
def positive_part_for_relu(x: Tensor, *_: Any, out: Tensor, relevance: Tensor) -> Tensor:
    return relevance.clamp(min=0)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", [*MAIN_CONFIGURATIONS, "carry_quotients alone"])
def test_rules_of_a_users_own(configuration: str) -> None:
    """They are given relevance itself, whatever form it is carried in, and nothing is known of their results."""
    model, (x,) = small_net("residual")
    layers = nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), One(swish), nn.Linear(8, 8), One(swish), nn.ReLU(), nn.Linear(8, 3)
    )
    for preset in ("epsilon", "epsilon_gamma_box", "epsilon_alpha2_beta1"):
        compiled_with: dict[str, Any] = {"extensions": [positive_part_for_relu]}
        assert_same(model, PRESETS[preset], x, configurations=[configuration], compiled_with=compiled_with)
        own = PRESETS[preset].override([("conv2", rules.Custom(evenly)), ("conv3", rules.Gamma())])
        assert_same(model, own, x, configurations=[configuration])
    for rule in (rules.Epsilon(), rules.Gamma(), rules.AlphaBeta()):
        compiled_with = {"extensions": [half_for_swish]}
        assert_same(
            initialised(layers),
            [("linear", rule)],
            X,
            configurations=[configuration],
            compiled_with=compiled_with,
        )


@pytest.mark.parametrize("rule", LINEAR_RULES, ids=str)
def test_a_map_to_one_number(rule: rules.Rule) -> None:
    """`F.linear` also takes a vector for its weight, and then has one dimension less to show."""
    vector = random(6, seed=5)
    for x in (random(3, 6), random(2, 4, 6)):
        model = One(lambda x: F.linear(F.relu(F.linear(x, WEIGHT)), vector)).eval()
        assert_same(model, [("linear", rule)], x, seed=torch.ones_like)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["conv2d", "groups", "conv_transpose2d", "conv1d"])
def test_an_input_without_a_batch(name: str, preset: str) -> None:
    model, shape = chain(name)
    x = random(*shape)
    convolution = {"epsilon_plus_flat": rules.Flat(), "epsilon_plus": rules.WSquare()}.get(preset)
    chosen = PRESETS[preset].override([(is_linear, convolution)] if convolution else [])
    assert_same(model, chosen, x, seed=torch.ones_like)
    # It is explained as a batch of one is.
    explain = fxlrp.compile(model, chosen)
    assert_relevance(explain(x, seed=torch.ones_like), explain(x[None], seed=torch.ones_like)[0])


@pytest.mark.parametrize("rule", (*LINEAR_RULES[::3], rules.WSquare(), rules.ZBox(-3.0, 3.0)), ids=str)
@pytest.mark.parametrize("name", ["dense", "groups"])
def test_an_empty_batch(name: str, rule: rules.Rule) -> None:
    model, shape = chain(name)
    x = torch.zeros(0, *shape, dtype=torch.float64)
    for optimize in (False, True):
        explain = fxlrp.compile(model, [(is_linear, rule)], optimize=optimize)
        assert explain(x, seed=torch.ones_like).shape == x.shape


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["epsilon", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("name", ["residual", "pooling", "batch_norm_after_transposed"])
def test_channels_last(name: str, preset: str) -> None:
    model, (x,) = small_net(name)
    assert_same(model, PRESETS[preset], x.contiguous(memory_format=torch.channels_last))
    channels_last = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_same(channels_last, PRESETS[preset], x)
    assert_same(model.float(), PRESETS[preset], x.float().contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("preset", PRESETS)
def test_targets_and_seeds(preset: str) -> None:
    model, (x,) = small_net("nested_skips", batch=3)
    targets = torch.tensor([4, 0, 1])
    seeds = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5)
    for called_with in ({"target": 2}, {"target": targets}, {"seed": seeds}, {"seed": lambda y: y.square()}):
        assert_same(model, PRESETS[preset], x, **called_with)


PAIRINGS = [
    *(("resnet18", preset) for preset in ("epsilon", "epsilon_plus_flat", "epsilon_gamma_box")),
    *(("squeezenet1_0", preset) for preset in PRESETS),
    *(("shufflenet_v2_x0_5", preset) for preset in ("epsilon_of_0", "epsilon_alpha2_beta1")),
    *(("mobilenet_v3_small", preset) for preset in ("epsilon_plus", "epsilon_gamma_box")),
    *(("efficientnet_b0", "epsilon_alpha2_beta1_flat"), ("googlenet", "epsilon_of_a_quarter")),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "turn", [*range(6), *slow_ones(*range(6, len(PAIRINGS)))], ids=[" ".join(pairing) for pairing in PAIRINGS]
)
def test_torchvision_models(turn: int) -> None:
    """In single precision at 64 pixels, the small ones also in double precision at 32."""
    name, preset = PAIRINGS[turn]
    for dtype, size in ((torch.float32, 64), (torch.float64, 32))[: 2 if turn < 11 else 1]:
        model, x = calibrated(name, dtype, size)
        assert_same(model, PRESETS[preset], x, configurations=some_configuration(turn + size // 64))


OTHER_PAIRINGS = [
    (name, preset)
    for turn, name in enumerate(("resnet18", "vgg11", "shufflenet_v2_x0_5", "mobilenet_v3_small", "efficientnet_b0"))
    for preset in list(PRESETS)[turn % 2 :: 2]
    if (name, preset) not in PAIRINGS
]
OTHER_PAIRINGS += [("densenet121", "epsilon_plus_flat"), ("googlenet", "epsilon_gamma_box")]


@slow
@pytest.mark.parametrize("turn", range(len(OTHER_PAIRINGS)), ids=[" ".join(pairing) for pairing in OTHER_PAIRINGS])
def test_more_of_torchvisions_models(turn: int) -> None:
    name, preset = OTHER_PAIRINGS[turn]
    model, x = calibrated(name, torch.float32, 64)
    assert_same(model, PRESETS[preset], x, configurations=some_configuration(turn))


@slow
@pytest.mark.parametrize("configuration", list(CONFIGURATIONS)[1:])
def test_resnet18_in_every_configuration(configuration: str) -> None:
    model, x = calibrated("resnet18", torch.float64, 32)
    assert_same(model, PRESETS["epsilon_gamma_box"], x, configurations=[configuration])


def dtypes_meet(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function of a value of single precision and of one of double precision."""

    def meet(x: Tensor) -> Tensor:
        return function(F.relu(F.linear(x, WEIGHT.float())), F.relu(F.linear(x.double(), OTHER)))

    return meet


@pytest.mark.parametrize(
    "function",
    [
        *(lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: torch.cat([a, b], 1)),
        *(lambda a, b: torch.where(a > b, a, b), lambda a, b: F.linear(b, OTHER).float() + a),
        *(lambda a, b: F.linear(a.double(), OTHER) + a, lambda a, b: torch.cat([a + b, F.linear(a.double(), OTHER)])),
    ],
    ids="add sub mul cat where to_float to_double both".split(),
)
def test_values_of_two_types(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    x = random(3, 6).float()
    for rule in (rules.Epsilon(), rules.ZPlus(), rules.Gamma(), rules.AlphaBeta()):
        model = One(dtypes_meet(function)).eval()
        assert_same(model, [("linear", rule)], x, configurations=MAIN_CONFIGURATIONS, seed=torch.ones_like)

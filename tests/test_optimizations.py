"""An optimization never changes an answer: on and off compared, alone and in every company, and its proofs tried.

The program without optimizations is held against oracles by other tests; here it is the oracle. What the compiler
proves about values is tried on values, with operations chosen to break the proofs.
"""

import copy
import dataclasses
import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from optimization_nets import OPERATIONS, PRESETS, Around, evenly, initialised, mixed, random_net
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fxlrp
import zoo
from fxlrp import Optimizations, rules
from fxlrp.capture.symbolic import capture
from fxlrp.errors import InputError
from fxlrp.operation import Family
from fxlrp.passes import pipeline
from fxlrp.passes.base import run_passes
from fxlrp.program import Program, receivers
from fxlrp.rules.presets import resolve
from fxlrp.shapes import InputSpec, infer_values
from fxlrp.vocabulary import CANONICAL
from oracles import One, Two, assert_relevance, random

slow = pytest.mark.slow
NAMES = tuple(field.name for field in dataclasses.fields(Optimizations))


def alone(name: str) -> Optimizations:
    return dataclasses.replace(Optimizations.none(), **{name: True})


CONFIGURATIONS: dict[str, Optimizations] = {
    "all": Optimizations(),
    **{f"{name} alone": alone(name) for name in NAMES},
    **{f"all but {name}": dataclasses.replace(Optimizations(), **{name: False}) for name in NAMES},
}
MAIN_CONFIGURATIONS = ["all", *(f"all but {name}" for name in ("infer_signs", "infer_support", "carry_quotients"))]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def some_configuration(turn: int) -> list[str]:
    """All optimizations together at every second turn, and between them one of the others after the other."""
    return [list(CONFIGURATIONS)[(turn // 2) % 14 + 1 if turn % 2 else 0]]


_small_net = functools.lru_cache(zoo.small_net)


def small_net(name: str, *, batch: int = 2) -> tuple[nn.Module, tuple[Tensor, ...]]:
    model, inputs = _small_net(name, batch=batch)
    return copy.deepcopy(model), tuple(x.clone() for x in inputs)


def as_tuple(relevance: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return relevance if isinstance(relevance, tuple) else (relevance,)


def assert_same(
    model: nn.Module,
    preset: Any,
    *inputs: Tensor,
    configurations: Sequence[str] = ("all",),
    tolerance: float | None = None,
    compiled_with: dict[str, Any] | None = None,
    **called_with: Any,
) -> None:
    """Optimized programs answer as the one without optimizations does, at the first call and at the second."""
    options = {"rules": preset, **(compiled_with or {})}
    expected = as_tuple(fxlrp.compile(model, optimize=False, **options)(*inputs, **called_with))
    for name in configurations:
        explain = fxlrp.compile(model, optimize=CONFIGURATIONS[name], **options)
        for _ in range(2):
            for got, wanted in zip(as_tuple(explain(*inputs, **called_with)), expected, strict=True):
                assert_relevance(got, wanted, tolerance or TOLERANCE[wanted.dtype])


def test_the_configurations_are_what_they_say() -> None:
    """Seven passes of the pipeline have a switch, and each configuration runs another selection of them."""
    optional = (*pipeline.SPECIALIZE, *pipeline.OPTIMIZE)
    assert {each.name for each in optional} == set(NAMES) and len(NAMES) == 7
    chosen = {name: pipeline.enabled(optional, each) for name, each in CONFIGURATIONS.items()}
    assert len(CONFIGURATIONS) == 15 == len({frozenset(each.name for each in run) for run in chosen.values()})
    assert chosen["all"] == optional and not pipeline.enabled(optional, Optimizations.none())
    for name in NAMES:
        assert [each.name for each in chosen[f"{name} alone"]] == [name]
        assert {each.name for each in chosen[f"all but {name}"]} == set(NAMES) - {name}
    assert pipeline.enabled(pipeline.EMIT, Optimizations.none()) == pipeline.EMIT


def test_optimize_is_a_bool_or_a_choice() -> None:
    model, _ = small_net("residual")
    codes = [fxlrp.compile(model, optimize=each).code for each in (True, Optimizations(), False, Optimizations.none())]
    assert codes[0] == codes[1] != codes[2] == codes[3]
    for wrong in (None, 1, "all", {"infer_signs": True}):
        with pytest.raises(InputError, match="optimize"):
            fxlrp.compile(model, optimize=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("turn", range(len(zoo.SMALL_NETS)), ids=list(zoo.SMALL_NETS))
def test_small_nets(turn: int) -> None:
    """With the presets, and with rules drawn by lot."""
    model, inputs = small_net(list(zoo.SMALL_NETS)[turn])
    presets = (*list(PRESETS.values())[turn % 2 :: 2], *(mixed(model, seed, *inputs) for seed in (turn, turn + 100)))
    for position, preset in enumerate(presets):
        configurations = some_configuration(turn * (len(presets) + 1) + position)
        compiled_with = {"example_inputs": inputs}
        assert_same(model, preset, *inputs, configurations=configurations, compiled_with=compiled_with)


@slow
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_small_nets_in_every_configuration(configuration: str) -> None:
    for turn, name in enumerate(zoo.SMALL_NETS, list(CONFIGURATIONS).index(configuration)):
        model, inputs = small_net(name)
        for preset in (list(PRESETS.values())[turn % 8], mixed(model, turn, *inputs)):
            compiled_with = {"example_inputs": inputs}
            assert_same(model, preset, *inputs, configurations=[configuration], compiled_with=compiled_with)


WEIGHT, OTHER = random(6, 6, seed=1), random(6, 6, seed=2)
X, Y = random(3, 6, seed=3), random(3, 6, seed=4)


def is_linear(node: fx.Node) -> bool:
    operation = CANONICAL.operation(node)
    return operation is not None and operation.family is Family.LINEAR


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
        preset = PRESETS["epsilon"].override([*pairs, *more])
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


LINEAR_RULES = (
    *(rules.Epsilon(), rules.Epsilon(0.0), rules.Epsilon(0.25, bias=False)),
    *(rules.ZPlus(), rules.ZPlus(stabilizer=0.0), rules.ZPlus(bias=False)),
    *(rules.AlphaBeta(), rules.AlphaBeta(1.0, 0.0), rules.AlphaBeta(stabilizer=0.0), rules.AlphaBeta(bias=False)),
    *(rules.Gamma(), rules.Gamma(0.0), rules.Gamma(stabilizer=0.0), rules.Gamma(bias=False)),
    *(rules.Flat(), rules.WSquare(), rules.WSquare(bias=False), rules.ZBox(-3.0, 3.0)),
)
CHAINS: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "dense": (lambda: [nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)], (6,)),
    "dense_without_biases": (lambda: [nn.Linear(6, 8, False), nn.Linear(8, 8, False), nn.Linear(8, 4, False)], (6,)),
    "tokens": (lambda: [nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)], (3, 6)),
    "conv1d": (
        lambda: [nn.Conv1d(2, 4, 4, padding="same"), nn.Conv1d(4, 4, 4, 2, padding=2), nn.Conv1d(4, 2, 2)],
        (2, 7),
    ),
    "conv2d": (lambda: [nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)], (3, 7, 7)),
    "groups": (
        lambda: [
            nn.Conv2d(4, 8, 3, groups=2, padding=2, dilation=2),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Conv2d(8, 4, 2, groups=4, bias=False),
        ],
        (4, 6, 6),
    ),
    "conv3d": (lambda: [nn.Conv3d(2, 3, 2), nn.Conv3d(3, 3, 3, padding=1), nn.Conv3d(3, 2, 2)], (2, 4, 4, 4)),
    "conv_transpose1d": (
        lambda: [nn.ConvTranspose1d(2, 4, 3, 2), nn.ConvTranspose1d(4, 4, 3, groups=2), nn.ConvTranspose1d(4, 2, 2)],
        (2, 5),
    ),
    "conv_transpose2d": (
        lambda: [
            nn.ConvTranspose2d(4, 4, 3, 2, padding=1, output_padding=1, groups=2),
            nn.ConvTranspose2d(4, 6, 2, groups=2, dilation=2),
            nn.ConvTranspose2d(6, 2, 1),
        ],
        (4, 3, 3),
    ),
    "conv_transpose3d": (
        lambda: [nn.ConvTranspose3d(2, 2, 2, 2), nn.ConvTranspose3d(2, 2, 2), nn.Conv3d(2, 2, 2)],
        (2, 2, 2, 2),
    ),
}


def chain(name: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    """Three linear maps with a ReLU between each two, and the shape of a sample."""
    layers, shape = CHAINS[name]
    first, second, third = layers()
    model = initialised(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third))
    assert isinstance(model, nn.Sequential)
    return model, shape


def as_it_is(model: nn.Sequential) -> None:
    pass


def some_dead(model: nn.Sequential) -> None:
    """Hidden units that are never active."""
    first: Any = model[0]
    if first.bias is not None:
        first.bias[1:] = -100.0
    first.weight[:, 1:] = 0.0


def all_dead(model: nn.Sequential) -> None:
    """Weights and biases are negative: where inputs are positive, no hidden unit is active."""
    for parameter in model[0].parameters():
        parameter.copy_(-parameter.abs())


def negative(model: nn.Sequential) -> None:
    for parameter in model[2].parameters():
        parameter.copy_(-parameter.abs())


def positive(model: nn.Sequential) -> None:
    for parameter in model[2].parameters():
        parameter.copy_(parameter.abs())


def exactly_zero(model: nn.Sequential) -> None:
    """Outputs that are exactly zero, though their inputs are not."""
    second, third = model[2], model[4]
    for parameter in second.parameters():
        parameter.view(-1)[::2] = 0.0
    for parameter in third.parameters():
        parameter[0] = 0.0


EXTREMES = (as_it_is, some_dead, all_dead, negative, positive, exactly_zero)


COMMON_CHAINS = ("dense", "conv2d", "groups", "conv_transpose2d")


@pytest.mark.parametrize("rule", LINEAR_RULES, ids=str)
@pytest.mark.parametrize("name", [name if name in COMMON_CHAINS else pytest.param(name, marks=slow) for name in CHAINS])
def test_dead_units_and_inputs_of_one_sign(name: str, rule: rules.Rule) -> None:
    """Two explainers for all of it: weights change under them, inputs, and the size of the batch."""
    model, shape = chain(name)
    preset = PRESETS["epsilon"].override([(is_linear, rule)])
    plain, optimized = (fxlrp.compile(model, preset, optimize=each) for each in (False, True))
    state = copy.deepcopy(model.state_dict())
    x = random(2, *shape, seed=7)
    for change in EXTREMES:
        with torch.no_grad():
            model.load_state_dict(state)
            change(model)
        for inputs in (x, x[:1].abs(), -x.abs(), x.clamp(min=0), torch.zeros_like(x)):
            expected = plain(inputs, seed=torch.ones_like)
            assert_relevance(optimized(inputs, seed=torch.ones_like), expected)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_dead_units_in_every_configuration(configuration: str) -> None:
    for rule in (rules.Gamma(stabilizer=0.0), rules.AlphaBeta(), rules.Epsilon(0.0)):
        model, shape = chain("conv2d")
        x = random(2, *shape, seed=7)
        with torch.no_grad():
            some_dead(model)
            exactly_zero(model)
        preset = PRESETS["epsilon"].override([(is_linear, rule)])
        assert_same(model, preset, x, configurations=[configuration], seed=torch.ones_like)


@pytest.mark.parametrize("rule", LINEAR_RULES, ids=str)
def test_values_that_are_exactly_zero(rule: rules.Rule) -> None:
    """Without a ReLU: units without weights, differences of a value with itself, sums of opposites."""
    weight = WEIGHT.clone()
    weight[::2] = 0.0
    for function in (
        lambda x: F.linear(F.linear(F.linear(x, WEIGHT), weight), OTHER),
        lambda x: F.linear((F.linear(x, WEIGHT) - F.linear(x, WEIGHT)) + F.linear(x, weight), OTHER),
        lambda x: F.linear(F.linear(x, weight) + F.linear(-x, weight) + torch.stack([x, -x, x], 1).sum(1), OTHER),
        lambda x: F.linear(torch.cat([F.linear(x, weight), -x], 1).reshape(-1, 2, 6).mean(1), OTHER),
    ):
        for epsilon in (0.0, 0.25):
            preset = fxlrp.presets.epsilon(epsilon).override([(is_linear, rule)])
            assert_same(One(function).eval(), preset, X, seed=torch.ones_like)


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


@pytest.mark.parametrize("preset", ["epsilon", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("name", ["residual", "pooling", "batch_norm_after_transposed"])
def test_channels_last(name: str, preset: str) -> None:
    model, (x,) = small_net(name)
    assert_same(model, PRESETS[preset], x.contiguous(memory_format=torch.channels_last))
    assert_same(model.to(memory_format=torch.channels_last), PRESETS[preset], x)
    assert_same(model.float(), PRESETS[preset], x.float().contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("preset", PRESETS)
def test_targets_and_seeds(preset: str) -> None:
    model, (x,) = small_net("nested_skips", batch=3)
    targets = torch.tensor([4, 0, 1])
    seeds = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(3, 5)
    for called_with in ({"target": 2}, {"target": targets}, {"seed": seeds}, {"seed": lambda y: y.square()}):
        assert_same(model, PRESETS[preset], x, **called_with)


@functools.lru_cache
def calibrated(name: str, dtype: torch.dtype, size: int) -> tuple[nn.Module, Tensor]:
    model, x = zoo.calibrated(name, size=size)
    return model.to(dtype), x.to(dtype)


PAIRINGS = [
    *(("resnet18", preset) for preset in ("epsilon", "epsilon_plus_flat", "epsilon_gamma_box")),
    *(("squeezenet1_0", preset) for preset in PRESETS),
    *(("shufflenet_v2_x0_5", preset) for preset in ("epsilon_of_0", "epsilon_alpha2_beta1")),
    *(("mobilenet_v3_small", preset) for preset in ("epsilon_plus", "epsilon_gamma_box")),
    *(("efficientnet_b0", "epsilon_alpha2_beta1_flat"), ("googlenet", "epsilon_of_a_quarter")),
]


@pytest.mark.parametrize("turn", range(len(PAIRINGS)), ids=[" ".join(pairing) for pairing in PAIRINGS])
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


def specialized(model: nn.Module, preset: Any = None, *inputs: Tensor) -> Program:
    """The annotated program with all that is known and decided about it, before relevance is emitted."""
    program = Program(capture(model), CANONICAL, resolve(preset))
    run_passes(program, pipeline.CANONICALIZE)
    if inputs:
        program.values = infer_values(program.graph_module, program.graph, [InputSpec.of(x) for x in inputs])
    run_passes(program, (*pipeline.SIMPLIFY, *pipeline.ANALYZE, *pipeline.ANNOTATE, *pipeline.SPECIALIZE))
    return program


def counts(model: nn.Module, preset: Any = None) -> Counter[str]:
    """How often each pass applies."""
    program = Program(capture(model), CANONICAL, resolve(preset))
    stages = (pipeline.CANONICALIZE, pipeline.SIMPLIFY, pipeline.ANALYZE, pipeline.ANNOTATE)
    return run_passes(program, sum((*stages, pipeline.SPECIALIZE, pipeline.EMIT, pipeline.OPTIMIZE), ()))


def untrained(name: str) -> nn.Module:
    """A torchvision model whose parameters have shapes and no values."""
    with torch.device("meta"):
        return zoo.torchvision.models.get_model(name, weights=None, **zoo.BUILDER_OPTIONS.get(name, {})).eval()


def modules_of(model: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in model.modules())


def module_calls(model: nn.Module, *kinds: type[nn.Module]) -> int:
    """How often modules of these kinds run in one forward pass; of the same module every call counts."""
    model, calls = copy.deepcopy(model), []
    for module in model.modules():
        if isinstance(module, kinds):
            module.register_forward_hook(lambda *_: calls.append(1))
    model(torch.empty(1, 3, 64, 64, device="meta"))
    return len(calls)


Fire = zoo.torchvision.models.squeezenet.Fire
BasicBlock = zoo.torchvision.models.resnet.BasicBlock
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@pytest.mark.parametrize(("name", "count"), [("vgg16", 22), ("resnet18", 20), ("squeezenet1_0", 39)])
def test_infer_signs_counts(name: str, count: int) -> None:
    """Every ReLU, every pooling of such values, their concatenations, and one flattening."""
    model = untrained(name)
    relus, pools = module_calls(model, nn.ReLU), module_calls(model, *POOLS)
    assert relus + pools + modules_of(model, Fire) + 1 == count
    assert counts(model)["infer_signs"] == count


def test_infer_signs_knows_where_a_sign_is_lost() -> None:
    def function(x: Tensor) -> Tensor:
        a = F.relu(F.linear(x, WEIGHT))
        b = F.avg_pool1d(a + a * a, 2)
        c = torch.cat([b, b - a[:, :3]], 1)
        return F.linear(c.clamp(min=0) / 2 + 1, OTHER)

    program = specialized(One(function))
    assert [node.name for node in program.graph.nodes if node in program.non_negative] == [
        *("relu", "mul", "add", "avg_pool1d", "getitem", "clamp", "truediv", "add_1")
    ]


@pytest.mark.parametrize("preset", ["epsilon", "epsilon_gamma_box"])
@pytest.mark.parametrize(("name", "count"), [("vgg16", 37), ("resnet18", 37), ("squeezenet1_0", 63)])
def test_infer_support_counts(name: str, preset: str, count: int) -> None:
    """What a ReLU reads and makes, its poolings and concatenations, and the flattening before the head.

    In squeezenet the last pooling and the flattening make the output, whose relevance is anyone's choice.
    """
    model = untrained(name)
    relus, pools = module_calls(model, nn.ReLU), module_calls(model, *POOLS)
    expected = 2 * relus + pools + modules_of(model, Fire) + (-1 if name == "squeezenet1_0" else 1)
    assert expected == count
    assert counts(model, PRESETS[preset])["infer_support"] == count


def test_infer_support_knows_where_it_ends() -> None:
    def function(x: Tensor) -> Tensor:
        a = F.linear(x, WEIGHT)
        b = F.relu(F.linear(F.relu(a), OTHER))
        return F.linear(F.relu(a + b), WEIGHT)

    program = specialized(One(function), PRESETS["epsilon"])
    # Not `linear`, which is `a`: the sum hands it a multiple of itself, where it is negative, too.
    supported = [node.name for node in program.graph.nodes if node in program.supported]
    assert supported == ["relu", "linear_1", "relu_1", "add", "relu_2"]
    by_parts = specialized(One(function), PRESETS["epsilon"].override([("add", rules.Equal())]))
    # Half of the sum's relevance reaches `b` where it is zero.
    supported = [node.name for node in by_parts.graph.nodes if node in by_parts.supported]
    assert supported == ["relu", "add", "relu_2"]


@pytest.mark.parametrize(
    ("name", "preset", "count"),
    [
        ("resnet18", "epsilon", 20 + 17 + 8 + 2 + 1 + 1),
        ("resnet18", "epsilon_plus_flat", 19 + 17 + 8 + 2 + 1 + 1),
        ("vgg16", "epsilon_alpha2_beta1", 13 + 15 + 5 + 1 + 1 + 3),
    ],
)
def test_carry_quotients_counts(name: str, preset: str, count: int) -> None:
    """Every step of these networks but that of Flat, which hands on no multiple of its input."""
    model = untrained(name)
    layers = modules_of(model, nn.Conv2d, nn.Linear) + module_calls(model, nn.ReLU, *POOLS) + 1
    sums = modules_of(model, BasicBlock)
    assert layers + sums - preset.endswith("flat") == count
    assert counts(model, PRESETS[preset])["carry_quotients"] == count


def test_carry_quotients_leaves_out_what_hands_on_no_multiple() -> None:
    def function(x: Tensor) -> Tensor:
        return F.linear(torch.softmax(F.linear(F.relu(x) * torch.sigmoid(x), WEIGHT), 1) @ OTHER, WEIGHT) + 1

    # an equal share is no multiple of what it goes to
    for preset, last in ((None, ["add"]), ([("add", rules.Equal())], [])):
        program = specialized(One(function), preset)
        chosen = [node.name for node in program.graph.nodes if node in program.quotients]
        assert chosen == ["relu", "mul", "linear", "softmax", "matmul", "linear_1", *last]


@pytest.mark.parametrize(
    ("name", "preset", "count"),
    [
        ("resnet18", PRESETS["epsilon_plus_flat"], 1),
        ("resnet18", PRESETS["epsilon_gamma_box"], 1),
        ("resnet18", PRESETS["epsilon_plus"], 0),
        ("resnet18", [("conv2d", rules.WSquare())], 20),
        ("vgg16", [("linear", rules.Flat()), ("features.0", rules.ZBox(-1.0, 1.0))], 3 + 1),
    ],
    ids="flat zbox neither wsquare both".split(),
)
def test_share_across_batch_counts(name: str, preset: Any, count: int) -> None:
    model = untrained(name)
    assert modules_of(model, nn.Conv2d) == (20 if name == "resnet18" else 13)
    assert counts(model, preset)["share_across_batch"] == count


def test_share_across_batch_counts_every_first_layer() -> None:
    model, _ = small_net("concatenation")
    assert counts(model, "epsilon_plus_flat")["share_across_batch"] == 2


@pytest.mark.parametrize("rule", [rules.Flat(), rules.WSquare(), rules.ZBox(-3.0, 3.0)], ids=str)
def test_share_across_batch_saves_work(rule: rules.Rule) -> None:
    """What convolutions compute for the explanation of a large batch, in elements."""
    model = initialised(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(1)))
    x = zoo.images(16, 6)
    made = []
    for optimizations in (Optimizations.none(), alone("share_across_batch")):
        explain = fxlrp.compile(model, [("conv2d", rule)], optimize=optimizations)
        made.append(kernels(explain, x).convolved)
    assert made[1] < 0.9 * made[0]


class Kernels(TorchDispatchMode):
    """Counts the kernels that run inside, and how often one makes a tensor of a given shape."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.shapes = set(shapes)
        self.count: Counter[str] = Counter()
        self.of_shape: Counter[str] = Counter()
        self.convolved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        self.count[name] += 1
        made = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        self.of_shape[name] += any(tuple(tensor.shape) in self.shapes for tensor in made)
        self.convolved += sum(tensor.numel() for tensor in made) if "convolution" in name else 0
        return result


def kernels(explain: fxlrp.Explainer, *inputs: Tensor, shapes: Sequence[tuple[int, ...]] = ()) -> Kernels:
    with Kernels(*shapes) as mode:
        explain(*inputs)
    return mode


@pytest.mark.parametrize(("name", "count"), [("vgg16", 5), ("resnet18", 1), ("squeezenet1_0", 3), ("googlenet", 13)])
def test_keep_pool_indices_counts(name: str, count: int) -> None:
    model = untrained(name)
    assert modules_of(model, nn.MaxPool2d) == count == counts(model)["keep_pool_indices"]
    assert counts(model, [("max_pool2d", rules.Epsilon())])["keep_pool_indices"] == 0


def test_keep_pool_indices_pools_once() -> None:
    """As many poolings run as the model has."""
    model, x = calibrated("squeezenet1_0", torch.float32, 64)
    expected = {True: 3, False: 6}
    for keep, count in expected.items():
        explain = fxlrp.compile(model, optimize=Optimizations(keep_pool_indices=keep))
        assert kernels(explain, x).count["max_pool2d_with_indices"] == count


def test_keep_pool_indices_for_two_poolings_of_one_value() -> None:
    """The steps of both find a pooling, whether the windows are the same or not."""
    for kernel in (3, 1):
        model = One(lambda x, kernel=kernel: F.max_pool1d(x, 3, 1, 1) * 2 + F.max_pool1d(x, kernel, 1, kernel // 2))
        assert counts(model.eval())["keep_pool_indices"] == 2
        assert_same(model, None, X, configurations=list(CONFIGURATIONS), seed=torch.ones_like)


def folded(model: nn.Module) -> int:
    return modules_of(model, *zoo.BATCH_NORMS)


@pytest.mark.parametrize(
    ("name", "preset", "count"),
    [
        ("vgg16", "epsilon", 0),
        # Without BatchNorm: a weight and a bias of the rule for every convolution.
        ("vgg16", "epsilon_plus", 2 * 13),
        # W + gamma W+, and its bias, behind a ReLU; nothing where ZBox computes its own.
        ("vgg16", "epsilon_gamma_box", 2 * 12),
        # |W-| and its bias, and W+ for the way back.
        ("vgg16", "epsilon_alpha2_beta1", 3 * 13),
        # BatchNorm folds into a weight and a bias each, in all 20 convolutions.
        ("resnet18", "epsilon", 2 * 20),
        ("resnet18", "epsilon_plus", 2 * 20 + 2 * 20),
        ("resnet18", "epsilon_plus_flat", 2 * 20 + 2 * 19),
    ],
)
def test_keep_constants_counts(name: str, preset: str, count: int) -> None:
    model = untrained(name)
    assert (modules_of(model, nn.Conv2d), folded(model)) == ((13, 0) if name == "vgg16" else (20, 20))
    assert counts(model, PRESETS[preset])["keep_constants"] == count


@pytest.mark.parametrize(
    ("name", "count"), [("vgg16", 15 + 1), ("resnet18", 17 + 8 + 1), ("squeezenet1_0", 26 + 8 + 1)]
)
def test_reuse_memory_counts(name: str, count: int) -> None:
    """Every ReLU, the sum of what two branches hand to the value that both read, and the input's relevance."""
    model = untrained(name)
    assert module_calls(model, nn.ReLU) + modules_of(model, BasicBlock, Fire) + 1 == count
    assert counts(model, "epsilon")["reuse_memory"] == count


def test_reuse_memory_runs_every_relu_in_place() -> None:
    model, x = calibrated("resnet18", torch.float32, 64)
    for reuse, expected in ((True, {"relu_": 17, "add_": 8}), (False, {"relu_": 0, "add_": 0})):
        count = kernels(fxlrp.compile(model, "epsilon", optimize=Optimizations(reuse_memory=reuse)), x).count
        assert {name: count[name] for name in expected} == expected


def test_reuse_memory_spares_what_is_read_later() -> None:
    def function(x: Tensor) -> Tensor:
        a = F.linear(x, WEIGHT)
        b = F.linear(F.relu(a) - a, OTHER)
        flat = F.linear(x, OTHER).flatten(1)
        return b + F.relu(flat)

    in_place = fxlrp.compile(One(function).eval(), "epsilon", optimize=alone("reuse_memory")).graph_module
    assert not [node for node in in_place.graph.nodes if node.target is torch.relu_]
    assert_same(One(function).eval(), "epsilon", X, configurations=list(CONFIGURATIONS), seed=torch.ones_like)


@pytest.mark.parametrize(
    ("view", "back"),
    [
        (lambda a: a.t(), lambda v: v.t()),
        (lambda a: a.transpose(0, 1), lambda v: v.transpose(0, 1)),
        (lambda a: a.permute(1, 0), lambda v: v.permute(1, 0)),
        (lambda a: a.movedim(0, 1), lambda v: v.movedim(0, 1)),
        (lambda a: a[:, 2:], lambda v: F.pad(v, (0, 2))),
        (lambda a: a.unsqueeze(0), lambda v: v.squeeze(0)),
        (lambda a: a.chunk(2, 1)[0], lambda v: torch.cat([v, v], 1)),
        (lambda a: a.reshape(-1), lambda v: v.reshape(-1, 6)),
        (lambda a: a.unbind(0)[1], lambda v: v.unsqueeze(0)),
        (lambda a: a.expand(2, -1, -1), lambda v: v.sum(0)),
    ],
    ids="t transpose permute movedim getitem unsqueeze chunk reshape unbind expand".split(),
)
def test_reuse_memory_spares_what_a_view_shows(view: Callable[..., Tensor], back: Callable[..., Tensor]) -> None:
    """A view that was taken before its value could be overwritten, and is read behind that."""

    def function(x: Tensor) -> Tensor:
        a = F.linear(x, WEIGHT)
        seen = view(a)
        return F.linear(F.relu(a), OTHER) + F.linear(back(seen), WEIGHT)

    for rule in (rules.ZPlus(), rules.Flat(), rules.Epsilon()):
        for name in ("all", "reuse_memory alone"):
            assert_same(One(function).eval(), [("linear", rule)], X, configurations=[name], seed=torch.ones_like)


class TwoReadersOfAConstant(nn.Module):
    """A computed weight is used as it is, by a gate that no relevance reaches, and what an activation makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(random(6, 6, seed=8)), nn.Parameter(random(6, 6, seed=9))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.left + self.right
        gate = torch.sigmoid(F.linear(x, weight))
        return F.linear(F.relu(x) * gate, torch.relu(weight))


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_constants_with_two_readers(configuration: str) -> None:
    for rule in (rules.ZPlus(), rules.Epsilon(), rules.Gamma()):
        assert_same(TwoReadersOfAConstant().eval(), [("linear", rule)], X, configurations=[configuration])


class Record(fx.Interpreter):
    """Runs a graph and keeps the value of every node."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values = getattr(self, "values", {}) | {n: value}
        return value


def relevance_of(node: fx.Node, named: dict[str, fx.Node]) -> fx.Node:
    """The relevance of a forward node in the program without optimizations: an activation hands on what it has."""
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
    non_negative, supported = program.non_negative, program.supported
    program.non_negative = program.supported = program.quotients = frozenset()
    run_passes(program, pipeline.EMIT)
    program.graph_module.recompile()
    named = {node.name: node for node in program.graph.nodes}
    several = {n for n in program.graph.nodes if (op := CANONICAL.operation(n)) is not None and op.many}
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


@pytest.mark.parametrize("turn", range(len(OPERATIONS)), ids=list(OPERATIONS))
def test_an_operation_in_any_company(turn: int) -> None:
    """What is proved of its values is so, and its relevance is the same whatever was made of that."""
    assert_sound_in_company(turn, turn % 2)


@slow
@pytest.mark.parametrize("turn", range(len(OPERATIONS)), ids=list(OPERATIONS))
def test_an_operation_in_other_company(turn: int) -> None:
    assert_sound_in_company(turn, 1 - turn % 2)


def is_claimed(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether a function's result is known to be non-negative."""
    program = Program(capture(One(function).eval()), CANONICAL, resolve(None))
    run_passes(program, (*pipeline.CANONICALIZE, *pipeline.SIMPLIFY, pipeline.ANALYZE[0], pipeline.SPECIALIZE[0]))
    return program.graph.output_node().args[0] in program.non_negative


# Constants that could be looked at, bounds that only a non-negative value meets, differences of a value with itself.
OVERLOOKED = {
    "a relu": {
        *("attention", "clamp_from_a_tensor", "clamp_from_below_zero", "clamp_min_below_zero", "clamp_on_both_sides"),
        *("hardtanh", "in_place", "local_response_norm", "matmul", "minus_its_relu", "minus_itself", "plus_its_half"),
        *("rms_norm", "rrelu", "square_of_negative_constant"),
    },
    "anything": {"elu_of_a_negative_alpha", "leaky_relu_of_a_negative_slope", "minus_itself", "times_zero"},
}


def test_infer_signs_finds_what_there_is() -> None:
    """Whatever turns out non-negative behind a ReLU, or behind values of both signs, but for what is listed."""
    x = torch.cat([zoo.images(64, 6), zoo.images(64, 6, seed=1)], 1)[:, :4] * 3
    x[0], x[1] = x[0].abs(), -x[1].abs()
    for name, operation in OPERATIONS.items():
        for behind, before in (("a relu", F.relu), ("anything", lambda x: x + 0.0)):
            claimed = is_claimed(lambda x, operation=operation, before=before: operation(before(x)))
            observed = all(bool((operation(before(pair)) >= 0).all()) for pair in x.split(2))
            assert observed or not claimed, f"{name} behind {behind}"
            assert claimed or not observed or name in OVERLOOKED[behind], f"{name} behind {behind}"


@pytest.mark.parametrize("name", zoo.SMALL_NETS)
def test_facts_about_small_nets(name: str) -> None:
    model, inputs = small_net(name)
    for preset in (PRESETS["epsilon_gamma_box"], mixed(model, len(name), *inputs)):
        assert_sound(model, preset, *variations(*inputs))


@pytest.mark.parametrize("seed", [*range(36), *(pytest.param(seed, marks=slow) for seed in range(36, 100))])
def test_random_graphs(seed: int) -> None:
    """With one rule for all that can have it, and with rules drawn by lot; some with checkpoints."""
    model, x = random_net(seed)
    for position, preset in enumerate((list(PRESETS.values())[2 + seed % 6], mixed(model, seed, x))):
        configurations = some_configuration(2 * seed + (seed + position) % 2)
        segments = (False, False, True, 3)[seed % 4]
        assert_sound(model, preset, *variations(x), configurations=configurations, checkpoint=segments)


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


class Stale(nn.Module):
    """Weights of every kind that is kept: folded, split by sign, shared, and computed from other parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.twin = nn.Conv2d(6, 6, 3, padding=1)
        self.twin.weight = self.conv.weight
        self.left = nn.Parameter(torch.zeros(6, 2))
        self.right = nn.Parameter(torch.zeros(2, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.norm(self.conv(x)))
        x = F.relu(self.twin(x)).mean((2, 3))
        return self.head(F.relu(F.linear(x, self.left @ self.right)))


def stale() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    model, x = Stale().double().eval(), zoo.images(4, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return zoo.calibrate(model, x), x


def step(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    F.cross_entropy(model(zoo.images(4, 8, seed=5)), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    model.zero_grad()


def fused_step(model: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3, fused=True)
    model(zoo.images(4, 8, seed=5)).square().sum().backward()
    optimizer.step()
    model.zero_grad()


def other_state(model: Any) -> dict[str, Tensor]:
    return {name: value * 1.5 if value.is_floating_point() else value for name, value in model.state_dict().items()}


def load(model: Any) -> None:
    model.load_state_dict(other_state(model))


def load_and_assign(model: Any) -> None:
    model.load_state_dict(other_state(model), assign=True)


@torch.no_grad()
def in_place(model: Any) -> None:
    model.conv.weight.mul_(-1)


@torch.no_grad()
def one_element(model: Any) -> None:
    model.twin.weight[3, 2, 1, 0] += 3.0


@torch.inference_mode()
def in_place_in_inference_mode(model: Any) -> None:
    model.conv.weight.mul_(-1)


@torch.no_grad()
def through_a_view(model: Any) -> None:
    model.conv.weight.flatten(1)[2:4].neg_()


def through_data(model: Any) -> None:
    model.conv.weight.data.mul_(-1)


def through_data_of_a_buffer(model: Any) -> None:
    model.norm.running_mean.data.add_(0.5)


def through_data_of_one_filter(model: Any) -> None:
    """As pruning does."""
    model.conv.weight.data[4].zero_()


def through_data_of_one_element(model: Any) -> None:
    model.conv.weight.data[1, 2, 1, 1] += 3.0


def through_numpy(model: Any) -> None:
    model.left.detach().numpy()[...] *= -1


def assigned_data(model: Any) -> None:
    model.conv.weight.data = -model.conv.weight.data


def transposed_data(model: Any) -> None:
    """Other values in the same memory."""
    model.conv.weight.data = model.conv.weight.data.transpose(0, 1)


def shortened_data(model: Any) -> None:
    """A part of the same memory, which begins where the whole does."""
    model.left.data, model.right.data = model.left.data[:, :1], model.right.data[:1]


def swapped_data(model: Any) -> None:
    left, right = model.left.data, model.right.data
    model.left.data, model.right.data = right.T.contiguous(), left.T.contiguous()


def replaced_parameter(model: Any) -> None:
    model.conv.weight = nn.Parameter(-model.conv.weight.detach())


def untied(model: Any) -> None:
    model.twin.weight = nn.Parameter(model.twin.weight.detach().clone())
    with torch.no_grad():
        model.conv.weight.mul_(-1)


def tied_anew(model: Any) -> None:
    model.stem.bias = model.twin.bias


def replaced_module(model: Any) -> None:
    model.conv = copy.deepcopy(model.conv)
    with torch.no_grad():
        model.conv.weight.mul_(-1)


def replaced_buffer(model: Any) -> None:
    model.norm.running_var = 3 * model.norm.running_var


@torch.no_grad()
def running_statistics(model: Any) -> None:
    model.norm.running_var.mul_(3)
    model.norm.running_mean.add_(0.5)


@torch.no_grad()
def a_pass_in_training_mode(model: Any) -> None:
    """BatchNorm's kernel writes its statistics without saying so."""
    model.norm.train()
    model(3 * zoo.images(4, 8, seed=5) + 1)
    model.eval()


def single_precision_and_back(model: Any) -> None:
    model.float().double()
    model.left.data.neg_()


def made_in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        model.conv.weight = nn.Parameter(-model.conv.weight)


def data_made_in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        data = -model.conv.weight
    model.conv.weight.data = data


def vector_to_parameters(model: Any) -> None:
    vector = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(0.7 * vector - 0.1, model.parameters())


def swapped_tensors(model: Any) -> None:
    torch.utils.swap_tensors(model.twin.bias, nn.Parameter(1 - model.twin.bias.detach()))


CHANGES = (
    *(step, fused_step, load, load_and_assign, in_place, one_element, in_place_in_inference_mode, through_a_view),
    *(through_data, through_data_of_a_buffer, through_data_of_one_filter, through_data_of_one_element, through_numpy),
    *(
        assigned_data,
        transposed_data,
        shortened_data,
        swapped_data,
        replaced_parameter,
        untied,
        tied_anew,
        replaced_module,
    ),
    *(replaced_buffer, running_statistics, a_pass_in_training_mode, single_precision_and_back),
    *(made_in_inference_mode, data_made_in_inference_mode, vector_to_parameters, swapped_tensors),
)
STALE_PRESETS = ("epsilon_gamma_box", "epsilon_alpha2_beta1_flat")


def as_compiled_now(model: nn.Module, preset: Any, x: Tensor) -> Tensor:
    """What an explainer says that knows nothing of earlier: of a copy, without optimizations."""
    relevance = fxlrp.compile(copy.deepcopy(model), preset, optimize=False)(x)
    assert isinstance(relevance, Tensor)
    return relevance


@pytest.mark.parametrize("preset", STALE_PRESETS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_of_the_weights_is_followed(change: Callable[[Any], None], preset: str) -> None:
    """At the next call, twice over, also of an explainer that was compiled but not asked before."""
    model, x = stale()
    asked, unasked = (fxlrp.compile(model, PRESETS[preset]) for _ in range(2))
    before = asked(x)
    for _ in range(2):
        change(model)
        expected = as_compiled_now(model, PRESETS[preset], x)
        assert (expected - before).abs().max() > 1e-3 * before.abs().max()
        for explain in (asked, unasked, asked):
            assert_relevance(explain(x), expected, 1e-12)
        before = expected
        if change in (untied, tied_anew, through_data_of_one_filter, shortened_data):
            break


def zeroed(data: Tensor) -> None:
    """As pruning does."""
    data.zero_()


def negated(data: Tensor) -> None:
    """One bit changes of each element."""
    data.neg_()


def with_two_channels_swapped(data: Tensor) -> None:
    """The same values in other places."""
    data[[2, 5]] = data[[5, 2]]


def with_two_elements_swapped(data: Tensor) -> None:
    data[7, 1, 1:] = data[7, 1, 1:].flip(0)


def with_one_element_negated(data: Tensor) -> None:
    data[3, 1, 1] *= -1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    "change",
    [zeroed, negated, with_two_channels_swapped, with_two_elements_swapped, with_one_element_negated],
    ids=lambda change: change.__name__,
)
def test_a_change_of_any_filter_is_followed(change: Callable[[Tensor], None], dtype: torch.dtype) -> None:
    """Through `.data`, which PyTorch does not count, one filter after the other of a layer of common size."""
    model = initialised(nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.Flatten(1))).to(dtype)
    x = zoo.images(1, 6).to(dtype)
    explain, plain = (fxlrp.compile(model, "epsilon_plus", optimize=each) for each in (True, False))
    before = explain(x, seed=torch.ones_like)
    changed: Any = model[2]
    for index in range(64):
        change(changed.weight.data[index])
        expected = plain(x, seed=torch.ones_like)
        assert_relevance(explain(x, seed=torch.ones_like), expected, TOLERANCE[dtype])
    assert (expected - before).abs().max() > 2e-5 * before.abs().max()


def test_a_change_of_a_parameter_that_is_a_part_of_another_tensor() -> None:
    """Its elements do not lie side by side, and there are fewer of them than the memory that they span."""
    rows = random(12, 6, seed=1)
    model: Any = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)).double().eval()
    for part in (rows[::2], rows.T[:, 3:9], rows[:1].expand(6, 6), rows[3:9].T):
        model[0].weight = nn.Parameter(part)
        explain, plain = (fxlrp.compile(model, [("linear", rules.ZPlus())], optimize=each) for each in (True, False))
        explain(X)
        for index in range(12):
            rows.data[index].mul_(-1.5)
            assert_relevance(explain(X), plain(X))


@pytest.mark.parametrize(
    "change", [in_place, through_data, assigned_data, replaced_parameter], ids=lambda c: c.__name__
)
def test_a_change_between_calls_of_two_threads(change: Callable[[Any], None]) -> None:
    model, x = stale()
    explain = fxlrp.compile(model)
    barrier = threading.Barrier(2, timeout=60)

    def ask(_: int) -> Tensor:
        barrier.wait()
        relevance = explain(x)
        assert isinstance(relevance, Tensor)
        return relevance

    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            expected = as_compiled_now(model, None, x)
            for relevance in pool.map(ask, range(2)):
                assert_relevance(relevance, expected, 1e-12)
            pool.submit(change, model).result()


def test_a_change_while_another_thread_explains() -> None:
    """Whatever that call saw, the next one sees the change."""
    model, x = stale()
    explain = fxlrp.compile(model)
    for _ in range(10):
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(explain, x)
            in_place(model)
            asked.result()
        assert_relevance(explain(x), as_compiled_now(model, None, x), 1e-12)


def test_two_explainers_of_one_model() -> None:
    model, x = stale()
    explainers = {name: fxlrp.compile(model, PRESETS[name]) for name in STALE_PRESETS}
    for change in (as_it_is, in_place, replaced_parameter, through_data):
        change(model)
        for name in (*STALE_PRESETS, *STALE_PRESETS):
            assert_relevance(explainers[name](x), as_compiled_now(model, PRESETS[name], x), 1e-12)


def model_of(explain: fxlrp.Explainer) -> Any:
    return explain.graph_module.model


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "not_asked"])
@pytest.mark.parametrize(
    "change",
    [in_place, load, load_and_assign, through_data, replaced_parameter, replaced_buffer],
    ids=lambda c: c.__name__,
)
def test_a_copy_of_an_explainer_has_weights_of_its_own(change: Callable[[Any], None], asked: bool) -> None:
    model, x = stale()
    explain = fxlrp.compile(model)
    before = explain(x) if asked else as_compiled_now(model, None, x)
    twin = copy.deepcopy(explain)
    change(model_of(twin))
    changed = as_compiled_now(model_of(twin), None, x)
    assert (changed - before).abs().max() > 1e-3 * before.abs().max()
    assert_relevance(twin(x), changed, 1e-12)
    assert_relevance(explain(x), before, 1e-12)
    # And the other way round.
    through_data(model)
    assert_relevance(explain(x), as_compiled_now(model, None, x), 1e-12)
    assert_relevance(twin(x), changed, 1e-12)
    twin.float()
    assert_relevance(twin(x.float()), changed.float(), 1e-4)
    assert_relevance(explain(x), as_compiled_now(model, None, x), 1e-12)


def test_in_and_out_of_inference_mode() -> None:
    model, x = stale()
    explain = fxlrp.compile(model)
    for inside in (True, False, True, True, False):
        expected = as_compiled_now(model, None, x)
        with torch.inference_mode(inside):
            assert_relevance(explain(x).clone(), expected, 1e-12)
        in_place(model)
    # Compiled and first asked inside, with an input made there.
    with torch.inference_mode():
        explain = fxlrp.compile(model)
        made_inside = x.clone()
        inside = explain(made_inside)
    expected = as_compiled_now(model, None, x)
    assert_relevance(inside.clone(), expected, 1e-12)
    assert_relevance(explain(x.clone().requires_grad_()), expected, 1e-12)
    assert_relevance(explain(made_inside), expected, 1e-12)


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.left @ self.right)


def low_rank() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU(), LowRank()).eval(), torch.randn(3, 6)


def test_constants_made_under_autocast_are_not_kept() -> None:
    """There a product of two parameters is of half precision."""
    model, x = low_rank()
    plain, explain = (fxlrp.compile(model, optimize=each) for each in (False, True))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            assert_relevance(explain(x).float(), plain(x).float(), 0.05)
        assert_relevance(explain(x), plain(x), 1e-5)
        in_place_everywhere(model)


@torch.no_grad()
def in_place_everywhere(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.mul_(1.1)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_relevance_has_the_inputs_type_under_autocast(configuration: str) -> None:
    model, x = low_rank()
    for rule in (rules.Epsilon(), rules.ZPlus(), rules.Gamma(), rules.AlphaBeta()):
        plain = fxlrp.compile(model, [("linear", rule)], optimize=False)
        explain = fxlrp.compile(model, [("linear", rule)], optimize=CONFIGURATIONS[configuration])
        with torch.autocast("cpu", torch.bfloat16):
            expected, relevance = plain(x), explain(x)
        assert relevance.dtype == expected.dtype == x.dtype
        assert_relevance(relevance, expected, 0.05)


class Noisy(nn.Module):
    """A new weight at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + torch.randn_like(self.weight))


def test_random_weights_are_no_constants() -> None:
    explain = fxlrp.compile(Noisy().eval())
    x = torch.randn(2, 6)
    assert not torch.equal(explain(x), explain(x))


def other_weights(explain: fxlrp.Explainer) -> dict[str, Tensor]:
    return {name: 1.5 * value.detach() for name, value in explain.named_parameters()}


def under_functional_call(explain: fxlrp.Explainer, x: Tensor) -> Any:
    return torch.func.functional_call(explain, other_weights(explain), (x,), {"target": 1})


def under_vmap_over_inputs(explain: fxlrp.Explainer, x: Tensor) -> Any:
    return torch.func.vmap(lambda sample: explain(sample[None], target=1)[0])(x)


def under_vmap_over_weights(explain: fxlrp.Explainer, x: Tensor) -> Any:
    """As for an ensemble."""
    weights = {name: torch.stack([value, 2 * value]) for name, value in other_weights(explain).items()}
    return torch.func.vmap(lambda each: torch.func.functional_call(explain, each, (x,), {"target": 1}))(weights)


def as_a_graph_of_kernels(explain: fxlrp.Explainer, x: Tensor) -> Any:
    """It outlives the call, so it must not hold what is kept."""
    graph = make_fx(lambda x: explain(x, target=1))(x)
    in_place(model_of(explain))
    try:
        return graph(x)
    finally:
        in_place(model_of(explain))


def on_fake_tensors(explain: fxlrp.Explainer, x: Tensor) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True):
        shape = explain(torch.empty(x.shape, dtype=x.dtype), target=1).shape
    return explain(x, target=1).reshape(shape)


@pytest.mark.parametrize(
    "ask",
    [
        *(under_functional_call, under_vmap_over_inputs, under_vmap_over_weights),
        *(as_a_graph_of_kernels, on_fake_tensors),
    ],
    ids=lambda ask: ask.__name__,
)
def test_what_transforms_a_program_transforms_an_optimized_one(ask: Callable[..., Any]) -> None:
    model, x = stale()
    explain, plain = (fxlrp.compile(model, optimize=each) for each in (True, False))
    for _ in range(2):
        assert_relevance(explain(x, target=1), plain(x, target=1), 1e-12)
        assert_relevance(ask(explain, x), ask(plain, x), 1e-12)


@pytest.mark.parametrize("preset", ["epsilon_plus", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_0"])
def test_constants_are_kept(name: str, preset: str) -> None:
    """A second call makes no tensor of a weight's shape; after a change of one weight it does, and then no more."""
    model, x = calibrated(name, torch.float32, 64)
    chosen = PRESETS[preset].override([(rules.FirstLayer(), rules.Epsilon())])
    explain = fxlrp.compile(model, chosen)
    fresh = fxlrp.compile(model, chosen, optimize=dataclasses.replace(Optimizations(), keep_constants=False))
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    shapes = [tuple(module.weight.shape) for module in convolutions]

    def made(asked: fxlrp.Explainer) -> int:
        return kernels(asked, x, shapes=shapes).of_shape.total()

    first = made(explain)
    assert first >= len(convolutions) - 1
    assert (made(explain), made(explain)) == (0, 0)
    with torch.no_grad():
        convolutions[3].weight.add_(0.0)
    assert (made(explain), made(explain)) == (first, 0)
    assert made(fresh) >= len(convolutions) - 1 <= made(fresh)
    if name == "resnet18":
        # Two for each BatchNorm: its weight and its bias.
        assert (kernels(explain, x).count["rsqrt"], kernels(fresh, x).count["rsqrt"]) == (0, 2 * 20)


class Writes(TorchDispatchMode):
    """Tells whether kernels write into memory that was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, Any] = {}
        self.into_own: list[str] = []
        self.into_others: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for position, parameter in enumerate(func._schema.arguments):
            value = args[position] if position < len(args) else kwargs.get(parameter.name)
            if parameter.alias_info is not None and parameter.alias_info.is_write and isinstance(value, Tensor):
                (self.into_own if storage(value) in self.made else self.into_others).append(str(func))
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and storage(tensor) not in given:
                self.made[storage(tensor)] = tensor  # held, so that its memory is not given to another
        return result


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@pytest.mark.parametrize("turn", range(len(zoo.SMALL_NETS)), ids=list(zoo.SMALL_NETS))
def test_only_memory_of_the_calls_own_is_written(turn: int) -> None:
    """Not into inputs, parameters, buffers, kept constants, the seed, or what was returned before."""
    name = list(zoo.SMALL_NETS)[turn]
    model, inputs = small_net(name)
    for preset in (list(PRESETS.values())[turn % 8], mixed(model, turn, *inputs)):
        asked = fxlrp.compile(model, preset, example_inputs=inputs, checkpoint=turn % 3 == 0)
        with torch.no_grad():
            logits = model(*(x.clone() for x in inputs))
        held = [*inputs, *model.parameters(), *model.buffers(), logits]
        results: list[Tensor] = []
        for called_with in ({}, {"target": (1,) + (0,) * (logits.dim() - 2)}, {"seed": logits}, {"seed": lambda y: y}):
            kept = [tensor.detach().clone() for tensor in (*held, *results)]
            with Writes() as writes:
                relevance = as_tuple(asked(*inputs, **called_with))
            assert not writes.into_others
            assert all(torch.equal(now, then) for now, then in zip((*held, *results), kept, strict=True))
            results += relevance
    assert writes.into_own or name not in ("residual", "module_twice", "nested_skips")


def test_writes_are_seen() -> None:
    x = torch.zeros(3)
    with Writes() as writes:
        (x + 1).flatten().relu_()
        x.view(3, 1).add_(1)
    assert (writes.into_own, writes.into_others) == (["aten.relu_.default"], ["aten.add_.Tensor"])


def assert_the_callers_own(relevance: Tensor, *others: Tensor) -> None:
    """The result shares memory with nothing, and its elements do not share memory with each other."""
    assert storage(relevance) not in {storage(other) for other in others}
    kept = [other.detach().clone() for other in others]
    expected = relevance * 3
    relevance.mul_(3)
    assert torch.equal(relevance, expected)
    assert all(torch.equal(other, then) for other, then in zip(others, kept, strict=True))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["residual", "concatenation", "pooling", "shapes", "one_dimensional", "two_inputs"])
def test_a_result_is_the_callers_own(name: str, preset: str) -> None:
    model, inputs = small_net(name)
    explain = fxlrp.compile(model, PRESETS[preset])
    seed = torch.ones(2, 5, dtype=torch.float64)
    earlier: list[Tensor] = []
    for _ in range(2):
        results = as_tuple(explain(*inputs, seed=seed))
        for relevance in results:
            assert_the_callers_own(relevance, *inputs, *model.parameters(), *model.buffers(), seed, *earlier)
        earlier += results
    for optimize in (False, True):
        answers = as_tuple(fxlrp.compile(model, PRESETS[preset], optimize=optimize)(*inputs, seed=seed))
        for relevance, asked_before in zip(answers, earlier[-len(answers) :], strict=True):
            assert_relevance(3 * relevance, asked_before)


@pytest.mark.parametrize("rule", [rules.Flat(), rules.WSquare(), rules.ZBox(-3.0, 3.0)], ids=str)
@pytest.mark.parametrize("name", CHAINS)
def test_the_result_of_a_first_layers_rule_is_the_callers_own(name: str, rule: rules.Rule) -> None:
    model, shape = chain(name)
    x = random(2, *shape)
    explain = fxlrp.compile(model, [(rules.FirstLayer(), rule)])
    assert_the_callers_own(explain(x, seed=torch.ones_like), x, *model.parameters())


@pytest.mark.parametrize(
    "function",
    [
        *(lambda x: x.squeeze(1), lambda x: x.flatten(1), lambda x: F.relu(x), lambda x: x.flip(1), lambda x: x * 2),
        *(lambda x: x.reshape(3), lambda x: x + x, lambda x: F.relu(x).squeeze(1), lambda x: x.expand(-1, 2)),
    ],
    ids="squeeze flatten relu flip times reshape twice relu_and_squeeze expand".split(),
)
def test_the_result_of_a_small_function_is_the_callers_own(function: Callable[[Tensor], Tensor]) -> None:
    """Also where nothing is computed on the way, and whatever the seed is."""
    x = random(3, 1)
    explain = fxlrp.compile(One(function).eval())
    output = function(x).clone()
    for seed in (None, output, lambda y: y, torch.ones_like):
        assert_the_callers_own(explain(x, seed=seed), x, output)


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


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


PRODUCTS = [
    ("nested_skips", "epsilon_gamma_box"),
    ("pooling", "epsilon_alpha2_beta1_flat"),
    ("batch_norm_after_transposed", "epsilon_plus_flat"),
    ("two_inputs", "epsilon"),
    ("concatenation", "epsilon_gamma_box"),
]


def cut(inputs: tuple[Tensor, ...], batch: int) -> tuple[Tensor, ...]:
    return tuple(x[:batch].clone() for x in inputs)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize(("name", "preset"), PRODUCTS[:2])
def test_torch_compile(name: str, preset: str) -> None:
    """What is compiled, of either batch, says what eager programs say, and follows the weights."""
    model, inputs = small_net(name, batch=3)
    optimized, plain = (fxlrp.compile(model, PRESETS[preset], optimize=each) for each in (True, False))
    optimized(*inputs)
    compiled = torch.compile(optimized, fullgraph=True, backend="aot_eager")
    for batch in (3, 2):
        for _ in range(2):
            pairs = zip(*(as_tuple(each(*cut(inputs, batch))) for each in (compiled, plain)), strict=True)
            for got, expected in pairs:
                assert_relevance(got, expected)
            next(model.parameters()).data.mul_(-1)


@pytest.mark.parametrize(("name", "preset"), PRODUCTS)
def test_torch_export(name: str, preset: str) -> None:
    """The exported program says what eager programs say, for every batch and also once the weights have changed."""
    model, inputs = small_net(name, batch=3)
    optimized, plain = (fxlrp.compile(model, PRESETS[preset], optimize=each) for each in (True, False))
    expected = [as_tuple(plain(*cut(inputs, batch))) for batch in (3, 2, 1)]
    batch = torch.export.Dim("batch")
    exported = torch.export.export(optimized, inputs, dynamic_shapes=(tuple({0: batch} for _ in inputs),)).module()
    for size, wanted in zip((3, 2, 1), expected, strict=True):
        kept = cut(inputs, size)
        for got, each in zip(as_tuple(exported(*kept)), wanted, strict=True):
            assert_relevance(got, each)
        assert all(torch.equal(x, y) for x, y in zip(kept, cut(inputs, size), strict=True))


@pytest.mark.parametrize("name", ["residual", "nested_skips", "batch_norm_after_transposed"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_program_by_itself(name: str, configuration: str) -> None:
    """`graph_module` says what the explainer says, and is a plain graph in every configuration."""
    model, (x,) = small_net(name)
    plain = fxlrp.compile(model, PRESETS["epsilon_gamma_box"], optimize=False)
    explain = fxlrp.compile(model, PRESETS["epsilon_gamma_box"], optimize=CONFIGURATIONS[configuration])
    explain(x)
    through_first_parameter(model)
    with torch.no_grad():
        assert_relevance(explain.graph_module(x), plain(x))
    assert {node.op for node in explain.graph_module.graph.nodes} <= {
        "placeholder",
        "get_attr",
        "call_function",
        "output",
    }
    state = {key: value.clone() for key, value in model.state_dict().items()}
    explain(x)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert list(explain.state_dict()) == list(plain.state_dict())


def through_first_parameter(model: nn.Module) -> None:
    next(model.parameters()).data.mul_(-1)


@pytest.mark.cuda
@pytest.mark.parametrize("preset", PRESETS)
def test_on_a_device(preset: str) -> None:
    for turn, name in enumerate(zoo.SMALL_NETS):
        model, inputs = small_net(name)
        on_device, compiled_with = tuple(x.cuda() for x in inputs), {"example_inputs": inputs}
        configurations = some_configuration(turn)
        assert_same(
            model.cuda(), PRESETS[preset], *on_device, configurations=configurations, compiled_with=compiled_with
        )


@pytest.mark.cuda
def test_changes_on_a_device() -> None:
    model, x = stale()
    model, x = model.cuda(), x.cuda()
    explain = fxlrp.compile(model)
    for change in (in_place, through_data, assigned_data, replaced_parameter, load, load_and_assign):
        explain(x)
        change(model)
        assert_relevance(explain(x), as_compiled_now(model, None, x), 1e-12)
    model.cpu()
    assert_relevance(explain(x.cpu()), as_compiled_now(model, None, x.cpu()), 1e-12)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.linear.weight * self.scale, self.linear.bias)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_parameters_on_two_devices(device: str) -> None:
    """A number on the CPU may scale a weight that is on another device."""
    model = Scaled().double().eval()
    model.linear.to(device)
    assert_same(model, None, X.to(device), configurations=list(CONFIGURATIONS))


@pytest.mark.cuda
def test_a_captured_cuda_graph_follows_the_weights() -> None:
    model, x = stale()
    model, x = model.cuda(), x.cuda()
    explain = fxlrp.compile(model)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            explain(x, seed=torch.ones_like)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = explain(x, seed=torch.ones_like)
    for _ in range(2):
        graph.replay()
        expected = fxlrp.compile(model, optimize=False)(x, seed=torch.ones_like)
        assert_relevance(captured, expected, 1e-9)
        in_place(model)

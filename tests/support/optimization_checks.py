"""Programs with some optimizations held against the program without any, and the facts that they rest on."""

import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fxlrp
import zoo
from fxlrp import Optimizations, rules
from fxlrp.capture.symbolic import capture
from fxlrp.operation import Family
from fxlrp.passes import pipeline
from fxlrp.passes.base import run_passes
from fxlrp.program import Options, Program
from fxlrp.rules.resolve import resolve
from fxlrp.shapes import InputSpec
from fxlrp.vocabulary import CANONICAL
from helpers import as_tuple
from optimization_nets import initialised
from oracles import assert_relevance

# `nest_regions` is chosen for torch.compile, and tested by itself.
NAMES = tuple(field.name for field in dataclasses.fields(Optimizations) if field.default)


def alone(name: str) -> Optimizations:
    return dataclasses.replace(Optimizations.none(), **{name: True})


CONFIGURATIONS: dict[str, Optimizations] = {
    "all": Optimizations(),
    **{f"{name} alone": alone(name) for name in NAMES},
    **{f"all but {name}": dataclasses.replace(Optimizations(), **{name: False}) for name in NAMES},
}

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def some_configuration(turn: int) -> list[str]:
    """All optimizations together at every second turn, and between them one of the others after the other."""
    return [list(CONFIGURATIONS)[(turn // 2) % (len(CONFIGURATIONS) - 1) + 1 if turn % 2 else 0]]


_small_net = functools.lru_cache(zoo.small_net)


def small_net(name: str, *, batch: int = 2) -> tuple[nn.Module, tuple[Tensor, ...]]:
    model, inputs = _small_net(name, batch=batch)
    return copy.deepcopy(model), tuple(x.clone() for x in inputs)


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


def is_linear(node: fx.Node) -> bool:
    operation = CANONICAL.operation(node)
    return operation is not None and operation.family is Family.LINEAR


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


def as_it_is(model: nn.Module) -> None:
    pass


@functools.lru_cache
def calibrated(name: str, dtype: torch.dtype, size: int) -> tuple[nn.Module, Tensor]:
    model, x = zoo.calibrated(name, size=size)
    return model.to(dtype), x.to(dtype)


def specialized(model: nn.Module, preset: Any = None, *inputs: Tensor) -> Program:
    """The annotated program with all that is known and decided about it, before relevance is emitted."""
    program = Program(capture(model), CANONICAL, Options(resolve(preset), examples=tuple(map(InputSpec.of, inputs))))
    run_passes(program, (*pipeline.ANNOTATED, *pipeline.SPECIALIZE))
    return program


def counts(model: nn.Module, preset: Any = None) -> Counter[str]:
    """How often each pass applies."""
    program = Program(capture(model), CANONICAL, Options(resolve(preset)))
    return run_passes(program, pipeline.explanation(Optimizations()).all)


def untrained(name: str) -> nn.Module:
    """A torchvision model whose parameters have shapes and no values."""
    with torch.device("meta"):
        return zoo.torchvision.models.get_model(name, weights=None, **zoo.BUILDER_OPTIONS.get(name, {})).eval()


Fire = zoo.torchvision.models.squeezenet.Fire
BasicBlock = zoo.torchvision.models.resnet.BasicBlock
POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


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


@torch.no_grad()
def in_place(model: Any) -> None:
    model.conv.weight.mul_(-1)


def model_of(explain: fxlrp.Explainer) -> Any:
    return explain.graph_module.model

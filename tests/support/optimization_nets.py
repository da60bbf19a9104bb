"""Nets and rules that the optimizations are tried on: operations in unusual company, and random graphs of them."""

import functools
import random
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import fxlrp
import zoo
from fxlrp import rules
from fxlrp.operation import Family
from fxlrp.program import annotation
from fxlrp.rules.preset import Pair, Preset
from fxlrp.vocabulary import CANONICAL

M = TypeVar("M", bound=nn.Module)

PRESETS: dict[str, Preset] = {
    "epsilon": fxlrp.presets.epsilon(),
    "epsilon_of_0": fxlrp.presets.epsilon(0.0),
    "epsilon_of_a_quarter": fxlrp.presets.epsilon(0.25),
    "epsilon_plus": fxlrp.presets.epsilon_plus(),
    "epsilon_plus_flat": fxlrp.presets.epsilon_plus_flat(),
    "epsilon_gamma_box": fxlrp.presets.epsilon_gamma_box(-4.0, 4.0),
    "epsilon_alpha2_beta1": fxlrp.presets.epsilon_alpha2_beta1(),
    "epsilon_alpha2_beta1_flat": fxlrp.presets.epsilon_alpha2_beta1_flat(),
}

MASK = torch.arange(6) % 3 == 0
INDEX = torch.tensor([0, 0, 3, 1])
SIGNS = torch.tensor([[[1.0]], [[-1.0]], [[0.5]], [[-2.0]]], dtype=torch.float64)
SLOPES = torch.tensor([-0.5, 0.25, 0.0, -2.0], dtype=torch.float64)
LOW = torch.tensor([[[-1.0]], [[0.5]], [[0.0]], [[-2.0]]], dtype=torch.float64)
ZEROS = torch.zeros(2, 1, 6, 6, dtype=torch.float64)
NEGATIVE = torch.full((2, 4, 6, 6), -0.3, dtype=torch.float64)


def assigned(x: Tensor, value: Any) -> Tensor:
    x = x * 1.0
    x[:, 1] = value
    return x


def in_place(x: Tensor) -> Tensor:
    x = x + 0.5
    x.mul_(2).relu_().sub_(0.25)
    return x


def chunks(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat([second, first, -first], 1)


# Of values (2, 4, 6, 6): with arguments that turn signs around, and that do not.
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "selu": F.selu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "rrelu": F.rrelu,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "leaky_relu_of_a_negative_slope": lambda x: F.leaky_relu(x, -0.5),
    "elu": F.elu,
    "elu_of_a_negative_alpha": lambda x: F.elu(x, -2.0),
    "celu": F.celu,
    "celu_of_a_negative_alpha": lambda x: F.celu(x, -1.5),
    "gelu": F.gelu,
    "gelu_by_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "prelu_of_negative_slopes": lambda x: F.prelu(x, SLOPES),
    "hardtanh": F.hardtanh,
    "hardtanh_above_zero": lambda x: F.hardtanh(x, 0.25, 2.0),
    "hardtanh_below_zero": lambda x: F.hardtanh(x, -2.0, -0.5),
    "hardtanh_from_zero": lambda x: F.hardtanh(x, 0.0, 1.0),
    "softplus": F.softplus,
    "softplus_of_a_negative_beta": lambda x: F.softplus(x, -2.0),
    "softplus_of_a_negative_threshold": lambda x: F.softplus(x, 1.0, -20.0),
    "softplus_of_negative_beta_and_threshold": lambda x: F.softplus(x, -1.0, -1.0),
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "hardshrink_of_a_negative_width": lambda x: F.hardshrink(x, -0.3),
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "threshold_to_a_negative_value": lambda x: F.threshold(x, 0.1, -3.0),
    "threshold_below_zero": lambda x: F.threshold(x, -1.0, 0.5),
    "threshold_to_a_larger_value": lambda x: F.threshold(x, 0.5, 2.0),
    "clamp_from_zero": lambda x: x.clamp(min=0),
    "clamp_from_below_zero": lambda x: x.clamp(min=-0.5),
    "clamp_from_above_zero": lambda x: x.clamp(min=0.1, max=2.0),
    "clamp_to_below_zero": lambda x: x.clamp(max=-0.5),
    "clamp_to_one": lambda x: x.clamp(max=1.0),
    "clamp_on_both_sides": lambda x: x.clamp(-1.0, 2.0),
    "clamp_with_crossed_bounds": lambda x: x.clamp(0.5, -0.5),
    "clamp_with_crossed_bounds_above_zero": lambda x: x.clamp(2.0, 1.0),
    "clamp_from_a_tensor": lambda x: torch.clamp(x, min=LOW),
    "clamp_to_a_tensor": lambda x: torch.clamp(x, max=LOW),
    "clamp_from_zero_to_a_tensor": lambda x: torch.clamp(torch.clamp_min(x, 0.0), max=LOW),
    "clamp_min_below_zero": lambda x: torch.clamp_min(x, -0.5),
    "clamp_max_below_zero": lambda x: torch.clamp_max(x, -0.5),
    "clamp_max": lambda x: torch.clamp_max(x, 0.5),
    "softmax": lambda x: F.softmax(x, 1),
    "neg": lambda x: -x,
    "plus_one": lambda x: x + 1,
    "minus_one": lambda x: x - 1,
    "one_minus": lambda x: 1 - x,
    "plus_tensor": lambda x: x + SIGNS,
    "plus_true": lambda x: x + True,
    "times_two": lambda x: x * 2,
    "times_minus_two": lambda x: x * -2,
    "times_zero": lambda x: x * 0,
    "times_tensor": lambda x: SIGNS * x,
    "over_two": lambda x: x / 2,
    "over_minus_two": lambda x: x / -2,
    "over_a_tensor": lambda x: x / SIGNS,
    "one_over": lambda x: x / (1 + x * x),
    "one_over_negative": lambda x: x / (-1 - x * x),
    "square": lambda x: x * x,
    "almost_square": lambda x: x * (x - 1),
    "square_of_negative_constant": lambda x: x * NEGATIVE * NEGATIVE,
    "gated": lambda x: x * torch.sigmoid(x - 1),
    "gated_by_tanh": lambda x: torch.tanh(x) * (x + 1),
    "twice_itself": lambda x: x + x,
    "minus_itself": lambda x: x - x,
    "plus_its_half": lambda x: torch.add(x, x, alpha=-0.5),
    "minus_its_relu": lambda x: x - F.relu(x),
    "plus_its_relu": lambda x: x + F.relu(x),
    "skip": lambda x: F.relu(x) + F.relu(-x),
    "broadcast_skip": lambda x: x + x.mean((2, 3), keepdim=True),
    "matmul": lambda x: x @ x.transpose(2, 3),
    "matmul_of_relus": lambda x: F.relu(x) @ F.relu(x).transpose(2, 3) - 0.1,
    "attention": lambda x: F.softmax(x @ x.transpose(2, 3), -1) @ x,
    "max_pool": lambda x: F.max_pool2d(x, 2, ceil_mode=True),
    "max_pool_padded": lambda x: F.max_pool2d(x, 3, 1, padding=1),
    "max_pool_dilated": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "max_pool_twice": lambda x: F.max_pool2d(x, 3, 1, 1) + F.max_pool2d(x, 3, 1, 1),
    "max_pool_two_ways": lambda x: F.max_pool2d(x, 3, 1, 1) + F.max_pool2d(x, 1, 1),
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1),
    "max_pool3d": lambda x: F.max_pool3d(x.unsqueeze(1), 2, 1),
    "adaptive_max_pool": lambda x: F.adaptive_max_pool2d(x, 4),
    "amax": lambda x: x.amax(2),
    "avg_pool": lambda x: F.avg_pool2d(x, 2, padding=1),
    "avg_pool_uncounted": lambda x: F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False),
    "avg_pool_of_a_negative_divisor": lambda x: F.avg_pool2d(x, 2, 1, divisor_override=-3),
    "avg_pool_of_a_divisor": lambda x: F.avg_pool2d(x, 2, 1, divisor_override=5),
    "avg_pool3d_of_a_negative_divisor": lambda x: F.avg_pool3d(x.unsqueeze(1), 2, 1, divisor_override=-2),
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
    "adaptive_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 4),
    "mean": lambda x: x.mean(3),
    "sum": lambda x: x.sum(1),
    "nearest": lambda x: F.interpolate(x, scale_factor=1.5),
    "nearest_exact": lambda x: F.interpolate(x, size=7, mode="nearest-exact"),
    "area": lambda x: F.interpolate(x, size=4, mode="area"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=0.7, mode="bilinear"),
    "bilinear_aligned": lambda x: F.interpolate(x, size=9, mode="bilinear", align_corners=True),
    "bilinear_antialiased": lambda x: F.interpolate(x, size=4, mode="bilinear", antialias=True),
    "bicubic": lambda x: F.interpolate(x, size=9, mode="bicubic"),
    "bicubic_antialiased": lambda x: F.interpolate(x, size=4, mode="bicubic", antialias=True),
    "linear_interpolation": lambda x: F.interpolate(x.flatten(2), scale_factor=1.3, mode="linear"),
    "trilinear": lambda x: F.interpolate(x.unsqueeze(1), size=5, mode="trilinear"),
    "pad": lambda x: F.pad(x, (1, 0, 0, 2)),
    "pad_with_a_negative_value": lambda x: F.pad(x, (1, 1), value=-1.0),
    "pad_with_a_value": lambda x: F.pad(x, (1, 1, 1, 1), value=2.0),
    "crop": lambda x: F.pad(x, (-1, 2, 0, -1)),
    "pad_by_reflection": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "pad_by_replication": lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"),
    "pad_around": lambda x: F.pad(x, (1, 2, 2, 1), mode="circular"),
    "masked_fill": lambda x: x.masked_fill(MASK, 0.0),
    "masked_fill_with_a_negative_value": lambda x: x.masked_fill(x > 1, -1.0),
    "masked_fill_with_a_value": lambda x: x.masked_fill(MASK, 2.0),
    "masked_fill_with_a_tensor": lambda x: x.masked_fill(MASK, torch.tensor(-2.0, dtype=torch.float64)),
    "where": lambda x: torch.where(x > 0.2, x, -x),
    "where_a_negative_number": lambda x: torch.where(x < 0.5, x, -1.0),
    "where_a_number": lambda x: torch.where(x < 0.5, x, 1.0),
    "where_a_negative_tensor": lambda x: torch.where(MASK, NEGATIVE, x),
    "where_its_relu": lambda x: torch.where(MASK, x, F.relu(x)),
    "setitem": lambda x: assigned(x, 1.0),
    "setitem_of_a_negative_number": lambda x: assigned(x, -1.0),
    "setitem_of_its_relu": lambda x: assigned(x, F.relu(x[:, 2])),
    "setitem_of_its_negative": lambda x: assigned(F.relu(x), -x[:, 0]),
    "in_place": in_place,
    "cat": lambda x: torch.cat([F.relu(x), x], 1),
    "cat_of_relus": lambda x: torch.cat([F.relu(x), F.relu(-x), F.relu(x)], 1),
    "cat_with_its_negative": lambda x: torch.cat([x, -x], 2),
    "cat_with_constants": lambda x: torch.cat([x, ZEROS, NEGATIVE], 1),
    "stack": lambda x: torch.stack([x, x - 1, F.relu(x)], 1),
    "hstack": lambda x: torch.hstack([x, F.relu6(x)]),
    "chunk": chunks,
    "one_of_three_chunks": lambda x: x.chunk(3, 3)[1].repeat(1, 1, 1, 3),
    "chunk_used_twice": lambda x: (lambda c: F.relu(c[0]) + c[0] * c[1])(x.chunk(2, 1)),
    "split": lambda x: (lambda s: torch.cat([s[1], s[0], s[1]], 1))(torch.split(x, [1, 3], 1)),
    "split_and_rectified": lambda x: (lambda s: torch.cat([F.relu(s[0]), F.relu(s[1])], 3))(torch.split(x, 3, 3)),
    "unbind": lambda x: (lambda u: torch.stack([u[0] - u[1], u[3], u[0]], 1))(x.unbind(1)),
    "getitem": lambda x: x[:, 1:, ::2],
    "getitem_by_tensor": lambda x: x[:, INDEX],
    "index_select": lambda x: x.index_select(1, INDEX),
    "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)).expand(-1, 4, -1, -1),
    "select": lambda x: x.select(1, 2),
    "narrow": lambda x: x.narrow(2, 1, 4),
    "flip": lambda x: x.flip(1, 3),
    "roll": lambda x: x.roll(2, 3),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "permute": lambda x: x.permute(0, 3, 1, 2),
    "reshape": lambda x: x.reshape(x.shape[0], 2, -1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: torch.channel_shuffle(x, 2),
    "batch_norm": lambda x: F.batch_norm(x, SLOPES, SLOPES**2 + 0.5, SLOPES, SLOPES),
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
    "group_norm": lambda x: F.group_norm(x, 2, SLOPES, SLOPES),
    "instance_norm": lambda x: F.instance_norm(x),
    "rms_norm": lambda x: F.rms_norm(x, (6,)),
    "local_response_norm": lambda x: F.local_response_norm(x, 2),
}


class Around(nn.Module):
    """An operation between linear maps, in branches: with a ReLU before itself and without, and behind itself.

    All branches read a ReLU, so that facts about their convolutions matter.
    """

    BRANCHES = ((False, False), (False, True), (True, False), (True, True))

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in self.BRANCHES)
        self.heads = nn.ModuleList(nn.Linear(16, 5) for _ in self.BRANCHES)

    def forward(self, x: Tensor) -> Tensor:
        stem, outputs = F.relu(self.stem(x)), []
        for (before, after), conv, head in zip(self.BRANCHES, self.convs, self.heads, strict=True):
            x = conv(stem)
            x = self.operation(F.relu(x) if before else x)
            x = F.relu(x) if after else x
            outputs.append(head(x.flatten(1)[:, :16]))
        return torch.cat(outputs, 1)


BINARY: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: x + y,
    lambda x, y: x - y,
    lambda x, y: torch.add(x, y, alpha=-0.5),
    lambda x, y: 0.3 * x * y,
    lambda x, y: x * torch.sigmoid(y),
    lambda x, y: x / (1 + y * y),
    lambda x, y: torch.where(x > y, x, y),
    lambda x, y: torch.where(MASK, x, y),
    lambda x, y: torch.cat([x, y], 1)[:, 2:6],
    lambda x, y: torch.cat([x[:, 1:], y[:, :1]], 1),
    lambda x, y: 0.3 * x @ y,
    lambda x, y: assigned(x, y[:, 0]),
    lambda x, y: x + y.mean((2, 3), keepdim=True),
    lambda x, y: torch.stack([x, y], 1).amax(1),
)
LAYERS: tuple[Callable[[], nn.Module], ...] = (
    lambda: nn.Conv2d(4, 4, 3, padding=1),
    lambda: nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False),
    lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=4),
    lambda: nn.Linear(6, 6),
    lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
    lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 1, 1)),
    lambda: nn.BatchNorm2d(4),
    lambda: nn.GroupNorm(2, 4),
    lambda: nn.LayerNorm(6),
)


class RandomNet(nn.Module):
    """A random graph over images (batch, 3, 6, 6): any operation may read any earlier values."""

    def __init__(self, seed: int, steps: int = 14) -> None:
        super().__init__()
        draw = random.Random(seed)
        sample = torch.ones(2, 4, 6, 6, dtype=torch.float64)
        unary = [f for f in OPERATIONS.values() if f(sample).shape == sample.shape]
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList()
        self.head = nn.Linear(8, 5)
        self.plan: list[tuple[Any, list[int]]] = []
        for known in range(1, steps + 1):
            kind = draw.choice(("layer", "relu", "unary", "unary", "binary", "binary"))
            recent = [max(draw.randrange(known), draw.randrange(known)) for _ in range(2)]
            if kind == "layer":
                self.layers.append(draw.choice(LAYERS)())
                self.plan.append((len(self.layers) - 1, recent[:1]))
            elif kind == "binary":
                self.plan.append((draw.choice(BINARY), recent))
            else:
                self.plan.append((F.relu if kind == "relu" else draw.choice(unary), recent[:1]))

    def forward(self, x: Tensor) -> Tensor:
        values = [self.stem(x)]
        for step, operands in self.plan:
            call = self.layers[step] if isinstance(step, int) else step
            values.append(call(*(values[operand] for operand in operands)))
        return self.head(torch.cat([values[-1], values[-2] + values[-3]], 1).mean((2, 3)))


@torch.no_grad()
def initialised(model: M, seed: int = 0) -> M:
    """A small model with random weights that keep signals at unit scale; quicker than `zoo.initialise`."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.double().state_dict().items():
        if tensor.is_floating_point():
            scale = (2 / tensor[0].numel()) ** 0.5 if tensor.dim() > 1 else 0.5
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) * scale)
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
    return model.eval()


def random_net(seed: int, batch: int = 2) -> tuple[nn.Module, Tensor]:
    """A random graph and images for it."""
    return initialised(RandomNet(seed), seed), zoo.images(batch, 6, seed=seed)


def evenly(x: Tensor, *_: Any, out: Tensor, relevance: Tensor, **__: Any) -> Tensor:
    """A rule of a user's own for anything with one operand: every element gets the same."""
    return torch.ones_like(x) * relevance.mean()


CHOICES: dict[Family, tuple[rules.Rule, ...]] = {
    Family.LINEAR: (
        *(rules.Epsilon(), rules.Epsilon(0.25), rules.Epsilon(1e-3, bias=False)),
        *(rules.ZPlus(), rules.ZPlus(bias=False), rules.ZPlus(stabilizer=0.0), rules.ZPlus(stabilizer=0.25)),
        *(rules.AlphaBeta(), rules.AlphaBeta(1.0, 0.0), rules.AlphaBeta(1.5, 0.5, bias=False)),
        *(rules.AlphaBeta(stabilizer=0.0), rules.AlphaBeta(3.0, 2.0, stabilizer=0.25)),
        *(rules.Gamma(), rules.Gamma(0.0, stabilizer=0.1), rules.Gamma(bias=False), rules.Gamma(3.0, stabilizer=0.25)),
        *(rules.WSquare(), rules.WSquare(bias=False, stabilizer=0.0), rules.Flat(), rules.Flat(stabilizer=0.0)),
        *(rules.ZBox(-4.0, 4.0), rules.Custom(evenly)),
    ),
    Family.SUM: (rules.Epsilon(0.25), rules.Epsilon(1e-3), rules.Magnitude(), rules.Magnitude(0.25), rules.Equal()),
    Family.PRODUCT: (rules.SignalTakeAll(), rules.Uniform()),
    Family.MAX_POOL: (rules.WinnerTakesAll(), rules.Epsilon(0.25), rules.Epsilon(1e-3)),
    Family.AVERAGE: (rules.Epsilon(0.25), rules.Epsilon(1e-3), rules.Custom(evenly)),
    Family.NORMALIZATION: (rules.Epsilon(0.25), rules.Epsilon(1e-2, bias=False)),
    Family.MATMUL: (rules.Epsilon(0.25), rules.Epsilon(1e-2)),
    Family.ACTIVATION: (rules.PassThrough(), rules.PassThrough(), rules.PassThrough(), rules.Custom(evenly)),
}


def _is_named(name: str, node: fx.Node) -> bool:
    return node.name == name


def mixed(model: nn.Module, seed: int, *inputs: Tensor) -> Preset:
    """A rule drawn by lot for each node, so that unusual neighbours meet."""
    draw = random.Random(seed)
    pairs = []
    for node in fxlrp.compile(model, example_inputs=inputs, optimize=False).nodes:
        operation, annotated = CANONICAL.operation(node), annotation(node)
        if operation is None or annotated is None or operation.family not in CHOICES:
            continue
        choices = CHOICES[operation.family]
        if operation.family is Family.SUM and len(annotated.carries) == 2:
            choices = (*choices, rules.Only(0), rules.Only(1))
        rule = draw.choice(choices)
        pairs.append(Pair(functools.partial(_is_named, node.name), rule, "drawn by lot"))
    return Preset("mixed", tuple(pairs))

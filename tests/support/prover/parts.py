"""The parts of which random models are made: modules between values of three kinds.

Every part keeps the sizes of its kind, so that any part fits behind any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES: Mapping[str, tuple[int, ...]] = {"flat": (6,), "seq": (4, 6), "image": (4, 6, 6)}
"""The kinds of values, with their sizes without the batch."""


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Args:
        name: Its name.
        reads: The kinds of its operands.
        gives: The kind of its result.
        make: Makes the module, with random weights.
        homogeneous: Whether the result is homogeneous of degree one in the operands, and linear but for selections, so
            that LRP-0 is gradient times input.
        conserves: Whether the operands receive all relevance under CP-LRP if biases are zero.
        changes: Whether it changes its first operand in place.
    """

    name: str
    reads: tuple[str, ...]
    gives: str
    make: Callable[[], nn.Module]
    homogeneous: bool = False
    conserves: bool = True
    changes: bool = False


class Call(nn.Module):
    """A call of a function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *operands: Tensor) -> Tensor:
        return self._function(*operands)


class Weighted(nn.Module):
    """A function of a value and a parameter."""

    def __init__(self, shape: tuple[int, ...], function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight, self._function = nn.Parameter(torch.randn(shape)), function

    def forward(self, *operands: Tensor) -> Tensor:
        return self._function(*operands, self.weight)


class Attention(nn.Module):
    """Attention of two heads, written in one of several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.qkv, self.out = kind, nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each.unflatten(-1, (2, 3)).transpose(1, 2) for each in self.qkv(x).chunk(3, -1))
        hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
        if self.kind == "causal":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.kind == "masked":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden)
        elif self.kind == "written out":
            y = ((q @ k.transpose(-1, -2)) / 3**0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v
        else:
            weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
            y = torch.einsum("bhqk,bhkd->bhqd", weights, v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def in_part_of(x: Tensor, change: Callable[[Tensor], Any]) -> Tensor:
    """Change a view of a copy."""
    y = x.clone()
    change(y[..., :3])
    return y


def halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat((second, first.relu()), 1)


def with_mean(x: Tensor) -> Tensor:
    return x + x.mean(-1, keepdim=True)


_ELEMENTWISE: Mapping[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (F.relu, True),
    "leaky_relu": (F.leaky_relu, True),
    "abs": (torch.abs, True),
    "double": (lambda x: x + x, True),
    "scaled": (lambda x: 3 * x / 2, True),
    "reversed": (lambda x: x.flip(-1), True),
    "rolled": (lambda x: x.roll(1, -1), True),
    "with_mean": (with_mean, True),
    "without_mean": (lambda x: x - x.mean(-1, keepdim=True), True),
    "cumsum": (lambda x: x.cumsum(-1), True),
    "masked": (lambda x: x.masked_fill(torch.arange(6) > 3, 0.0), True),
    "where": (lambda x: torch.where(torch.arange(6) % 2 == 0, x, -x), True),
    "stacked": (lambda x: torch.stack((x, x.relu()), -1).sum(-1), True),
    "padded": (lambda x: F.pad(x, (1, 1))[..., 1:-1], True),
    "maximum": (lambda x: x.amax(-1, keepdim=True) + x, True),
    "changed_copy": (lambda x: in_part_of(x, torch.relu_), True),
    "scaled_copy": (lambda x: in_part_of(x, lambda part: part.mul_(2)), True),
    "gelu": (F.gelu, False),
    "silu": (F.silu, False),
    "tanh": (torch.tanh, False),
    "gated": (lambda x: x * x.sigmoid(), False),
    "relu6": (F.relu6, False),
    "clamped": (lambda x: x.clamp(-0.5, 0.5), False),
    "normalized": (lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt(), False),
    "softplus": (F.softplus, False),
}

_PAIRS: Mapping[str, tuple[Callable[[Tensor, Tensor], Tensor], bool, bool]] = {
    "add": (torch.add, True, True),
    "sub": (torch.sub, True, True),
    "weighted_sum": (lambda a, b: torch.add(a, b, alpha=0.5), True, True),
    "joined": (lambda a, b: torch.cat((a, b), 1)[:, ::2], True, True),
    "gate": (lambda a, b: a * b.sigmoid(), False, True),
    "product": (torch.mul, False, False),
    "quotient": (lambda a, b: a / (1 + b.square()), False, False),
    "largest": (torch.maximum, True, True),
}

_MODULES: Mapping[str, Mapping[str, tuple[Callable[[], nn.Module], bool]]] = {
    "flat": {
        "linear": (lambda: nn.Linear(6, 6), False),
        "linear_without_bias": (lambda: nn.Linear(6, 6, bias=False), True),
        "layer_norm": (lambda: nn.LayerNorm(6), False),
        "batch_norm": (lambda: nn.BatchNorm1d(6), False),
        "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6, bias=False)), True),
        "matmul": (lambda: Weighted((6, 6), torch.matmul), True),
        "dropout": (lambda: nn.Dropout(0.5), True),
    },
    "seq": {
        "linear": (lambda: nn.Linear(6, 6), False),
        "linear_without_bias": (lambda: nn.Linear(6, 6, bias=False), True),
        "layer_norm": (lambda: nn.LayerNorm(6), False),
        "rms_norm": (lambda: nn.RMSNorm(6), False),
        "mixed": (lambda: Weighted((4, 4), lambda x, w: torch.einsum("btc,ts->bsc", x, w)), True),
    },
    "image": {
        "conv": (lambda: nn.Conv2d(4, 4, 3, padding=1), False),
        "conv_without_bias": (lambda: nn.Conv2d(4, 4, 3, padding=1, bias=False), True),
        "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), True),
        "conv_and_norm": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)), False),
        "batch_norm": (lambda: nn.BatchNorm2d(4), False),
        "group_norm": (lambda: nn.GroupNorm(2, 4), False),
        "max_pool": (lambda: nn.MaxPool2d(3, 1, 1), True),
        "avg_pool": (lambda: nn.AvgPool2d(3, 1, 1), True),
        "upsampled": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), True),
        "shuffled": (lambda: nn.ChannelShuffle(2), True),
        "transposed": (lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, bias=False), True),
    },
}

_BETWEEN: Mapping[tuple[str, str], Mapping[str, tuple[Callable[[], nn.Module], bool]]] = {
    ("seq", "flat"): {
        "mean_of_positions": (lambda: Call(lambda x: x.mean(1)), True),
        "last_position": (lambda: Call(lambda x: x[:, -1]), True),
        "max_of_positions": (lambda: Call(lambda x: x.amax(1)), True),
    },
    ("image", "flat"): {
        "pooled": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6, bias=False)), True),
    },
    ("flat", "seq"): {"unflattened": (lambda: nn.Sequential(nn.Linear(6, 24), nn.Unflatten(1, (4, 6))), False)},
    ("image", "seq"): {"patches": (lambda: Call(lambda x: x.mean(3)), True)},
    ("seq", "image"): {"outer": (lambda: Call(lambda x: x.unsqueeze(3).expand(-1, -1, -1, 6)), True)},
}


def _parts() -> Iterator[Part]:
    for kind in SIZES:
        for name, (function, homogeneous) in _ELEMENTWISE.items():
            yield Part(name, (kind,), kind, _call(function), homogeneous)
        for name, (pair, of_degree_one, conserves) in _PAIRS.items():
            yield Part(name, (kind, kind), kind, _call(pair), of_degree_one, conserves)
        for name, (make, homogeneous) in _MODULES[kind].items():
            yield Part(name, (kind,), kind, make, homogeneous)
        yield Part("relu_in_place", (kind,), kind, lambda: nn.ReLU(inplace=True), True, changes=True)
        yield Part("added_in_place", (kind, kind), kind, _call(lambda a, b: a.add_(b)), True, changes=True)
    for name in ("causal", "masked", "written out", "einsum"):
        yield Part(f"attention, {name}", ("seq",), "seq", _attention(name))
    for (first, second), makes in _BETWEEN.items():
        for name, (make, homogeneous) in makes.items():
            yield Part(name, (first,), second, make, homogeneous)


def _call(function: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    return lambda: Call(function)


def _attention(kind: str) -> Callable[[], nn.Module]:
    return lambda: Attention(kind)


PARTS: tuple[Part, ...] = tuple(_parts())

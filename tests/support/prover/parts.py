"""The parts of random models that are written by hand: what passes special-case, in the forms that models have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prover.shapes import Shape

SIZES: Mapping[str, Shape] = {"flat": (6,), "seq": (4, 6), "image": (4, 6, 6)}
"""The kinds of values that written parts read, with their sizes without the batch."""


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a model.

    Args:
        name: Its name.
        reads: The shapes of its operands without the batch; None for any shape, that of the first operand if there are
            several.
        gives: The shape of its result; None for that of the first operand.
        make: Makes the module, with random weights.
        homogeneous: Whether the result is homogeneous of degree one in the operands if biases are zero, and linear but
            for selections, so that LRP-0 is gradient times input.
        conserves: Whether the operands receive all relevance under CP-LRP if biases are zero.
        changes: Whether it changes its first operand in place.
        mixes: Whether it mixes the samples of a batch.
        precision: The least precise type through which values pass.
        operation: The row that it calls; None for a part that is written by hand.
    """

    name: str
    reads: tuple[Shape | None, ...]
    gives: Shape | None
    make: Callable[[], nn.Module]
    homogeneous: bool = False
    conserves: bool = True
    changes: bool = False
    mixes: bool = False
    precision: torch.dtype = torch.float64
    operation: str | None = None


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


class Recurrent(nn.Module):
    """All states of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(6, 6, batch_first=True, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.layer(x)[0]
        return states


class Attention(nn.Module):
    """Attention of two heads, written in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self._way, self.query, self.rest, self.out = way, nn.Linear(6, 6), nn.Linear(6, 12), nn.Linear(6, 6)
        self.module = nn.MultiheadAttention(6, 2, batch_first=True) if way == "module" else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
        if self.module is not None:
            attended: Tensor = self.module(x, x, x, attn_mask=hidden, need_weights=False)[0]
            return attended
        k, v = self.rest(x).chunk(2, -1)
        q, k, v = (_heads(each) for each in (self.query(x), k, v))
        mixed: Tensor = self.out(_WAYS[self._way](q, k, v, hidden).transpose(1, 2).flatten(2))
        return mixed


def _heads(x: Tensor) -> Tensor:
    heads: Tensor = x.unflatten(-1, (2, 3)).transpose(1, 2)
    return heads


def _written_out(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    return ((q @ k.transpose(-1, -2)) / 3**0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v


def _by_einsum(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    weights = torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def _read_twice(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    weights = (q @ k.transpose(-1, -2)).softmax(-1)
    return weights @ v + weights.mean(-1, keepdim=True)


def _grouped(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)


_WAYS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "causal": lambda q, k, v, hidden: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "masked": lambda q, k, v, hidden: F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden),
    "additive": lambda q, k, v, hidden: F.scaled_dot_product_attention(q, k, v, attn_mask=hidden * -1e9),
    "biased": lambda q, k, v, hidden: F.scaled_dot_product_attention(q, k, v, attn_mask=hidden * 0.3, scale=0.5),
    "grouped": _grouped,
    "written out": _written_out,
    "einsum": _by_einsum,
    "read twice": _read_twice,
}
WAYS = (*_WAYS, "module")


def in_part_of(x: Tensor, change: Callable[[Tensor], Any]) -> Tensor:
    """Change a view of a copy."""
    y = x.clone()
    change(y[..., :3])
    return y


def halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat((second, first.relu()), 1)


def gated_halves(x: Tensor) -> Tensor:
    signal, gate = x.chunk(2, -1)
    return torch.cat((signal * F.silu(gate), gate), -1)


def excited(x: Tensor) -> Tensor:
    return x * x.mean((2, 3), keepdim=True).sigmoid()


def standardized(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=0) + 1e-2)


def set_to_zero(x: Tensor) -> Tensor:
    x[..., 0] = 0.0
    return x


def relu_of_view(x: Tensor) -> Tensor:
    x[..., ::2].relu_()
    return x


def with_copy_changed(x: Tensor) -> Tensor:
    """The view is read after the value was changed."""
    view = torch.einsum("...->...", x)
    return x.mul_(0.5) + view


# Under CP-LRP a softmax is a constant. Behind a mask, what a deviation or softplus gives a zero has nowhere to go.
_ABSORBING = ("softmax", "attention, read twice", "with_spread", "softplus")

_ANYWHERE: Mapping[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (F.relu, True),
    "leaky_relu": (F.leaky_relu, True),
    "abs": (torch.abs, True),
    "double": (lambda x: x + x, True),
    "scaled": (lambda x: 3 * x / 2, True),
    "nothing": (lambda x: x - x, True),
    "zeros": (lambda x: x.masked_fill(x < 0.3, 0.0), True),
    "reversed": (lambda x: x.flip(-1), True),
    "rolled": (lambda x: x.roll(1, -1), True),
    "with_mean": (lambda x: x + x.mean(-1, keepdim=True), True),
    "without_mean": (lambda x: x - x.mean(-1, keepdim=True), True),
    "with_largest": (lambda x: x.amax(-1, keepdim=True) + x, True),
    "cumsum": (lambda x: x.cumsum(-1), True),
    "stacked": (lambda x: torch.stack((x, x.relu()), -1).sum(-1), True),
    "padded": (lambda x: F.pad(x, (1, 1))[..., 1:-1], True),
    "alias": (lambda x: torch.einsum("...->...", x), True),
    "copied": (lambda x: x.clone().contiguous(), True),
    "decided": (lambda x: torch.where((x > -0.2) & ~(x > 1) | (x < -1) ^ (x > 2), x, 0.5 * x), True),
    "gelu": (F.gelu, False),
    "silu": (F.silu, False),
    "tanh": (torch.tanh, False),
    "gated": (lambda x: x * x.sigmoid(), False),
    "relu6": (F.relu6, False),
    "clamped": (lambda x: x.clamp(-0.5, 0.5), False),
    "normalized": (lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt(), False),
    "standardized": (standardized, False),
    "with_spread": (lambda x: x.relu() + x.relu().std(-1, keepdim=True, correction=0), False),
    "softplus": (F.softplus, False),
    "softmax": (lambda x: x.softmax(-1), False),
}

_ELEMENTWISE: Mapping[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "masked": (lambda x: x.masked_fill(torch.arange(6) > 3, 0.0), True),
    "where": (lambda x: torch.where(torch.arange(6) % 2 == 0, x, -x), True),
    "halves": (halves, True),
    "gated_halves": (gated_halves, False),
    "changed_copy": (lambda x: in_part_of(x, torch.relu_), True),
    "scaled_copy": (lambda x: in_part_of(x, lambda part: part.mul_(2)), True),
}

_PAIRS: Mapping[str, tuple[Callable[[Tensor, Tensor], Tensor], bool, bool]] = {
    "add": (torch.add, True, True),
    "sub": (torch.sub, True, True),
    "weighted_sum": (lambda a, b: torch.add(a, b, alpha=0.5), True, True),
    "broadcast": (lambda a, b: a + b[..., :1], True, True),
    "joined": (lambda a, b: torch.cat((a, b), 1)[:, ::2], True, True),
    "gate": (lambda a, b: a * b.sigmoid(), False, True),
    "gate_of_softmax": (lambda a, b: a * b.softmax(-1), False, True),
    "product": (torch.mul, False, False),
    "quotient": (lambda a, b: a / (1 + b.square()), False, False),
    "largest": (torch.maximum, True, True),
}

_CHANGES: Mapping[str, tuple[Callable[[Tensor], Tensor], bool, bool]] = {
    "relu": (lambda x: F.relu(x, inplace=True), True, True),
    "scaled": (lambda x: x.mul_(-0.5), True, True),
    "clamped": (lambda x: x.clamp_(-0.5, 0.5), False, True),
    "set_to_zero": (set_to_zero, True, True),
    "relu_of_view": (relu_of_view, True, True),
    "view_of_changed": (with_copy_changed, True, True),
}

_CHANGES_BY: Mapping[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "added": (lambda a, b: a.add_(b), True),
    "gated": (lambda a, b: a.mul_(b.sigmoid()), False),
}

_MODULES: Mapping[str, Mapping[str, tuple[Callable[[], nn.Module], bool]]] = {
    "flat": {
        "linear": (lambda: nn.Linear(6, 6), True),
        "linear_without_bias": (lambda: nn.Linear(6, 6, bias=False), True),
        "layer_norm": (lambda: nn.LayerNorm(6), False),
        "batch_norm": (lambda: nn.BatchNorm1d(6), True),
        "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6, bias=False)), True),
        "matmul": (lambda: Weighted((6, 6), torch.matmul), True),
        "dropout": (lambda: nn.Dropout(0.5), True),
    },
    "seq": {
        "linear": (lambda: nn.Linear(6, 6), True),
        "linear_without_bias": (lambda: nn.Linear(6, 6, bias=False), True),
        "layer_norm": (lambda: nn.LayerNorm(6), False),
        "rms_norm": (lambda: nn.RMSNorm(6), False),
        "views": (lambda: Call(lambda x: torch.einsum("btc->bct", x).transpose(1, 2)), True),
        "gru": (lambda: Recurrent(), False),
        "mixed": (lambda: Weighted((4, 4), lambda x, w: torch.einsum("btc,ts->bsc", x, w)), True),
    },
    "image": {
        "conv": (lambda: nn.Conv2d(4, 4, 3, padding=1), True),
        "conv_without_bias": (lambda: nn.Conv2d(4, 4, 3, padding=1, bias=False), True),
        "depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), True),
        "conv_and_norm": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)), True),
        "batch_norm": (lambda: nn.BatchNorm2d(4), True),
        "group_norm": (lambda: nn.GroupNorm(2, 4), False),
        "max_pool": (lambda: nn.MaxPool2d(3, 1, 1), True),
        "avg_pool": (lambda: nn.AvgPool2d(3, 1, 1), True),
        "upsampled": (lambda: nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2)), True),
        "excited": (lambda: Call(excited), False),
        "channels_last": (lambda: Call(lambda x: torch.einsum("bchw->bwch", x.permute(0, 2, 3, 1))), True),
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
    ("flat", "seq"): {"unflattened": (lambda: nn.Sequential(nn.Linear(6, 24), nn.Unflatten(1, (4, 6))), True)},
    ("image", "seq"): {
        "patches": (lambda: Call(lambda x: x.mean(3)), True),
        "columns": (lambda: Call(lambda x: x.select(3, 0)), True),
    },
    ("seq", "image"): {"outer": (lambda: Call(lambda x: x.unsqueeze(3).expand(-1, -1, -1, 6)), True)},
}


def _parts() -> Iterator[Part]:
    for name, (function, homogeneous) in _ANYWHERE.items():
        yield Part(name, (None,), None, _call(function), homogeneous, name not in _ABSORBING)
    for name, (pair, of_degree_one, conserves) in _PAIRS.items():
        yield Part(name, (None, None), None, _call(pair), of_degree_one, conserves)
    for name, (change, of_degree_one, conserves) in _CHANGES.items():
        yield Part(f"{name}_in_place", (None,), None, _call(change), of_degree_one, conserves, changes=True)
    for name, (change_by, of_degree_one) in _CHANGES_BY.items():
        yield Part(f"{name}_in_place", (None, None), None, _call(change_by), of_degree_one, changes=True)
    for kind, shape in SIZES.items():
        for name, (function, homogeneous) in _ELEMENTWISE.items():
            yield Part(name, (shape,), shape, _call(function), homogeneous)
        for name, (make, homogeneous) in _MODULES[kind].items():
            yield Part(name, (shape,), shape, make, homogeneous)
    for way in WAYS:
        name = f"attention, {way}"
        yield Part(name, (SIZES["seq"],), SIZES["seq"], _attention(way), conserves=name not in _ABSORBING)
    for (first, second), makes in _BETWEEN.items():
        for name, (make, homogeneous) in makes.items():
            yield Part(name, (SIZES[first],), SIZES[second], make, homogeneous)


def _call(function: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    return lambda: Call(function)


def _attention(kind: str) -> Callable[[], nn.Module]:
    return lambda: Attention(kind)


PARTS: tuple[Part, ...] = tuple(_parts())

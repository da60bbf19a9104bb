"""Shape operations: relevance follows the elements, and what was duplicated adds up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from helpers import Function, explained, seed_of
from oracles import (
    One,
    Two,
    assert_relevance,
    dense_map,
    epsilon_rule,
    move_back,
    random,
    randomize,
    stabilize,
    through,
)


class Constants(nn.Module):
    """A function of the input and of constants that the model holds."""

    def __init__(self, function: Function, **constants: Tensor) -> None:
        super().__init__()
        self.function, self.names = function, tuple(constants)
        for name, constant in constants.items():
            self.register_buffer(name, constant)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *(getattr(self, name) for name in self.names))


INDEX = torch.tensor([2, 0, 2])
GATHERED = torch.tensor([0, 3, 3]).view(1, 3, 1, 1).expand(3, 3, 2, 3)
SHAPE: dict[str, Function] = {
    "reshape": lambda x: x.reshape(x.shape[0], -1),
    "view": lambda x: x.view(x.size(0), 2, 2, -1),
    "torch.reshape": lambda x: torch.reshape(x, (-1, 6)),
    "flatten": lambda x: torch.flatten(x, 1),
    "method flatten": lambda x: x.flatten(start_dim=-2),
    "nn.Flatten": nn.Flatten(),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "nn.Unflatten": nn.Unflatten(1, (2, 2)),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "torch.permute": lambda x: torch.permute(x, (0, 3, 1, 2)),
    "transpose": lambda x: x.transpose(1, 2),
    "torch.transpose": lambda x: torch.transpose(x, -1, 1),
    "swapaxes": lambda x: x.swapaxes(1, 3),
    "movedim": lambda x: torch.movedim(x, 1, -1),
    "contiguous": lambda x: x.transpose(1, 2).contiguous().view(x.size(0), -1),
    "mT": lambda x: x.mT,
    "clone": lambda x: x.clone(),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "squeeze all": lambda x: x[:, 1:2].squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "torch.unsqueeze": lambda x: torch.unsqueeze(x, -1),
    "slice": lambda x: x[:, 1:3],
    "slice with a step": lambda x: x[:, ::2, :, 1:],
    "slice, ellipsis": lambda x: x[..., :2],
    "slice and new axis": lambda x: x[:, None, 1],
    "select by index": lambda x: x[:, 0],
    "select by negative index": lambda x: x[:, -1, ..., -2],
    "select": lambda x: x.select(1, 2),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "index with a tensor": lambda x: x[:, INDEX],
    "index with a list": lambda x: x[:, [3, 1, 1]],
    "index with two tensors": lambda x: x[:, INDEX, torch.tensor([0, 1, 0])],
    "index_select": lambda x: torch.index_select(x, 1, INDEX),
    "gather": lambda x: torch.gather(x, 1, GATHERED),
    "cat": lambda x: torch.cat([x, x[:, :2]], dim=1),
    "cat with itself": lambda x: torch.cat((x, x), 1),
    "cat with a constant": lambda x: torch.cat([torch.ones_like(x), x], dim=2),
    "cat with nothing": lambda x: torch.cat([torch.empty(0, dtype=x.dtype), x, x], dim=1),
    "stack": lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 0]], dim=1),
    "split": lambda x: torch.cat([torch.split(x, 1, dim=1)[3], x.split(3, dim=1)[1]], 1),
    "split by sizes": lambda x: x.split([1, 3], dim=1)[1],
    "chunk": lambda x: torch.cat([x.chunk(2, 1)[1], x.chunk(2, 1)[0]], -1),
    "unbind": lambda x: torch.stack([x.unbind(1)[2], x.unbind(1)[0]], 1),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad with a value": lambda x: F.pad(x, (1, 1), value=3.0),
    "pad, cropping": lambda x: F.pad(x, (-1, 2)),
    "pad reflect": lambda x: F.pad(x, (2, 1, 1, 0), mode="reflect"),
    "pad replicate": lambda x: F.pad(x, (1, 2, 2, 0), mode="replicate"),
    "pad circular": lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"),
    "nn.ZeroPad2d": nn.ZeroPad2d((1, 0, 2, 0)),
    "nn.ReflectionPad2d": nn.ReflectionPad2d(1),
    "nn.ReplicationPad2d": nn.ReplicationPad2d(2),
    "nn.ConstantPad2d": nn.ConstantPad2d(1, 0.5),
    "roll": lambda x: torch.roll(x, shifts=(1, -1), dims=(2, 3)),
    "method roll": lambda x: x.roll(2, 3),
    "flip": lambda x: torch.flip(x, dims=[2, 3]),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "broadcast_to": lambda x: torch.broadcast_to(x[:, 1:2], x.shape),
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "tile": lambda x: torch.tile(x, (1, 1, 2, 1)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=2),
    "masked_fill": lambda x: x.masked_fill(torch.arange(3) > 1, -1.0),
    "where": lambda x: torch.where(torch.arange(3) > 0, x, torch.zeros_like(x)),
    "where with a number": lambda x: torch.where(torch.tensor([True, False, True]), x, 2.0),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "nn.PixelShuffle": nn.PixelShuffle(2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(F.pad(x, (0, 1)), 2),
    "F.channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "channel shuffle": lambda x: x.view(x.shape[0], 2, 2, 2, 3).transpose(1, 2).contiguous().view(x.shape),
}


@pytest.mark.parametrize("name", SHAPE)
def test_relevance_follows_the_elements(name: str) -> None:
    function, x = SHAPE[name], random(3, 4, 2, 3)
    seed = seed_of(function(x))
    model = nn.Sequential(function) if isinstance(function, nn.Module) else One(function)
    assert_relevance(explained(model, (x,), seed), move_back(function, x, seed), 1e-12)


WITH_CONSTANTS: dict[str, tuple[Function, dict[str, Tensor]]] = {
    "index": (lambda x, i: x[:, i], {"i": INDEX}),
    "index_select": (lambda x, i: x.index_select(1, i), {"i": INDEX}),
    "where": (lambda x, c: torch.where(c, x, torch.zeros(()).to(x)), {"c": random(4, 2, 3) > 0}),
    "masked_fill": (lambda x, c: x.masked_fill(c, 0.0), {"c": random(4, 2, 3) > 0}),
    "masked_fill_": (lambda x, c: x.clone().masked_fill_(c, 0.0), {"c": random(2, 3) > 0}),
    "cat": (lambda x, c: torch.cat([c.expand(x.shape[0], -1, -1, -1), x], dim=1), {"c": random(1, 2, 2, 3)}),
    "cat in the middle": (lambda x, c: torch.cat([x, c, x], dim=0), {"c": random(2, 4, 2, 3)}),
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_relevance_follows_the_elements_past_constants(name: str) -> None:
    function, constants = WITH_CONSTANTS[name]
    x = random(3, 4, 2, 3)
    seed = seed_of(function(x, *constants.values()))
    expected = move_back(lambda x: function(x, *constants.values()), x, seed)
    assert_relevance(explained(Constants(function, **constants), (x,), seed), expected, 1e-12)


MASK = torch.tensor([True, False, True])
JOINED: dict[str, Function] = {
    "cat": lambda a, b: torch.cat([a, b], dim=1),
    "cat, one twice": lambda a, b: torch.cat([b, a, b], dim=-1),
    "concat": lambda a, b: torch.concat((a, b), 1),
    "stack": lambda a, b: torch.stack([a, b], dim=2),
    "hstack": lambda a, b: torch.hstack([a, b]),
    "vstack": lambda a, b: torch.vstack([a, b]),
    "where": lambda a, b: torch.where(MASK, a, b),
    "method where": lambda a, b: b.where(MASK, a),
}


@pytest.mark.parametrize("name", JOINED)
def test_relevance_follows_the_elements_of_both(name: str) -> None:
    function, a, b = JOINED[name], random(3, 4, 3), random(3, 4, 3, seed=1)
    seed = seed_of(function(a, b))
    explain = fxlrp.compile(Two(function).eval(), rules="epsilon")
    found = explain(a, b, seed=seed)
    assert_relevance(found["a"], move_back(lambda t: function(t, b), a, seed), 1e-12)
    assert_relevance(found["b"], move_back(lambda t: function(a, t), b, seed), 1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("join", [torch.hstack, torch.vstack, torch.dstack, torch.column_stack])
def test_joins_of_tensors_with_few_dimensions(join: Callable[..., Tensor], dims: int) -> None:
    shape = (3, 2, 4)[:dims]
    a, b = random(*shape), random(*shape, seed=1)
    seed = seed_of(join([a, b]))
    found = fxlrp.compile(Two(lambda a, b: join([a, b])).eval(), "epsilon", example_inputs=(a, b))(a, b, seed=seed)
    assert_relevance(found["a"], move_back(lambda t: join([t, b]), a, seed), 1e-12)
    assert_relevance(found["b"], move_back(lambda t: join([a, t]), b, seed), 1e-12)


def test_where_broadcasts_its_branches() -> None:
    a, b = random(3, 4, 3), random(3, 1, 1, seed=1)
    seed = random(3, 4, 3, seed=2)
    found = fxlrp.compile(Two(lambda a, b: torch.where(MASK, a, b)).eval(), rules="epsilon")(a, b, seed=seed)
    assert_relevance(found["a"], seed * MASK)
    assert_relevance(found["b"], (seed * ~MASK).sum((1, 2), keepdim=True))


def test_split_with_a_part_left_out() -> None:
    """Three parts, the middle one unused: its elements get nothing."""

    def function(x: Tensor) -> Tensor:
        first, _, last = x.chunk(3, dim=1)
        return first + last

    x, seed = random(2, 6, 3), random(2, 2, 3)
    ratio = seed / stabilize(x[:, :2] + x[:, 4:])
    expected = torch.cat([x[:, :2] * ratio, torch.zeros(2, 2, 3).double(), x[:, 4:] * ratio], dim=1)
    assert_relevance(explained(One(function), (x,), seed), expected)


def test_dense_concatenation() -> None:
    """As in densenet: every layer sees all before it."""

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = randomize(nn.Linear(3, 2), 1)
            self.second = randomize(nn.Linear(5, 2), 2)

        def forward(self, x: Tensor) -> Tensor:
            features = [x]
            features.append(self.first(torch.cat(features, 1)))
            features.append(self.second(torch.cat(features, 1)))
            return torch.cat(features, 1)

    model, x, seed = Dense(), random(3, 3), random(3, 7)
    h = torch.cat([x, model.first(x).detach()], 1)
    at_h = seed[:, :5] + through(epsilon_rule, dense_map(model.second, (5,)), h, seed[:, 5:])
    expected = at_h[:, :3] + through(epsilon_rule, dense_map(model.first, (3,)), x, at_h[:, 3:])
    assert_relevance(explained(model, (x,), seed), expected)


class Upsampling(nn.Module):
    """Down by a stride of 2 and up to the size that was, as in a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.down(x)), output_size=x.size()[2:])


def test_output_size_of_a_transposed_convolution() -> None:
    """LRP-0 is gradient times input; an odd and an even size need different output paddings."""
    model = Upsampling().double().eval()
    explain = fxlrp.compile(model, rules=presets.epsilon(epsilon=0.0))
    for size in (7, 8):
        x = random(2, 2, size, size).requires_grad_()
        out, weight = model(x), random(2, 2, size, size, seed=1)
        (gradient,) = torch.autograd.grad((out * weight).sum(), x)
        assert_relevance(explain(x.detach(), seed=(out * weight).detach()), (x * gradient).detach())

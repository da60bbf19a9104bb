"""The relevance of the parameters of whole networks by LRP-0: the gradient times the parameter.

That holds where every step is linear, or a ReLU or a maximum, with biases, too: the relevance of each value is
the value times its gradient of ``sum f(x) * (seed / f(x))``, with the last factor constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from fxlrp import presets, rules
from fxlrp.errors import UnsupportedOpError
from fxlrp.parameters import reads_of
from helpers import slow_ones
from of_parameters import of_parameters, program_with_parameters
from oracles import assert_relevance, random, randomize

LRP0 = presets.epsilon(0.0)


def gradient_times_parameter(model: nn.Module, inputs: Sequence[Tensor], seed: Tensor) -> dict[str, Tensor]:
    output = model(*inputs)
    parameters = dict(model.named_parameters())
    quotient = torch.where(output == 0, 0.0, seed / output).detach()
    total = (output * quotient).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), materialize_grads=True)
    return {
        name: (parameter * gradient).detach()
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }


def check(model: nn.Module, *inputs: Tensor, optimize: bool = True) -> None:
    seed = random(*model(*inputs).shape, seed=3)
    _, actual = of_parameters(model, LRP0, inputs, seed, optimize=optimize)
    wanted = gradient_times_parameter(model, inputs, seed)
    assert actual.keys() == wanted.keys()
    for name, relevance in wanted.items():
        assert relevance.abs().max() > 1e-6, f"the oracle gives {name} nothing"
        assert_relevance(actual[name], relevance, 1e-8)


class Residual(nn.Module):
    """BatchNorm folded into maps with and without biases, and one that is not folded, as its input is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.up, self.up_norm = nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.BatchNorm2d(6)
        self.last, self.last_norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, affine=False)
        self.alone, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(x + self.norm(self.conv(x)))
        x = F.max_pool2d(F.relu(self.up_norm(self.up(x))), 2)
        x = self.last_norm(self.last(x))
        x = F.relu(x + self.alone(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("optimize", [True, False])
def test_a_residual_network_with_batch_norm(optimize: bool) -> None:
    check(randomize(Residual()), random(3, 2, 4, 4), optimize=optimize)


class Tokens(nn.Module):
    """Embeddings, a class token, a scale, a shared layer and a head that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(7, 4), nn.Embedding(6, 4)
        self.start, self.scale = nn.Parameter(random(1, 1, 4)), nn.Parameter(random(4))
        self.shift, self.mix = nn.Parameter(random(4, seed=1)), nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.cat([self.start.expand(tokens.shape[0], -1, -1), self.embed(tokens)], 1)
        x = x + self.places(torch.arange(6))
        x = x + self.scale * F.relu(self.mix(x)) - self.shift
        x = F.relu(self.mix(x))
        return self.head(x[:, 0] + x[:, 1:].sum(1))


@pytest.mark.parametrize("optimize", [True, False])
def test_embeddings_and_tied_weights(optimize: bool) -> None:
    torch.manual_seed(0)
    check(randomize(Tokens()), torch.randint(0, 7, (3, 5)), optimize=optimize)


class Computed(nn.Module):
    """Weights that are computed from parameters."""

    full: Tensor
    left: Tensor
    right: Tensor
    turned: Tensor
    kept: Tensor
    both: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        shapes = {"full": (4, 4), "left": (4, 2), "right": (2, 4), "turned": (4, 4), "kept": (4, 4), "both": (8, 4)}
        for index, (name, shape) in enumerate(shapes.items()):
            self.register_parameter(name, nn.Parameter(random(*shape, seed=index)))
        self.tensor = nn.Parameter(random(4, 2, 2))
        self.register_buffer("mask", (random(4, 4, seed=9) > 0).double())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.linear(x, self.full + 0.5 * self.left @ self.right))
        x = F.relu(x @ self.turned.t())
        x = F.relu(F.linear(x, self.kept * self.mask))
        first, second = self.both.chunk(2)
        x = F.relu(F.linear(x, first)) + torch.matmul(x, second)
        return torch.einsum("bi,ijk->bjk", x, self.tensor).flatten(1)


@pytest.mark.parametrize("optimize", [True, False])
def test_computed_weights(optimize: bool) -> None:
    check(Computed().eval(), random(5, 4), optimize=optimize)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.LayerNorm(4), (3, 5, 4)),
        (nn.LayerNorm((5, 4)), (3, 5, 4)),
        (nn.LayerNorm(4, bias=False), (3, 4)),
        (nn.RMSNorm(4), (3, 5, 4)),
        (nn.GroupNorm(2, 4), (3, 4, 5)),
        (nn.InstanceNorm2d(4, affine=True), (3, 4, 2, 3)),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), (3, 4, 5)),
        (nn.BatchNorm1d(4), (3, 4)),
        (nn.BatchNorm2d(4), (3, 4, 2, 3)),
    ],
    ids=str,
)
def test_scale_and_shift_of_normalizations(norm: nn.Module, shape: tuple[int, ...]) -> None:
    x = random(*shape)
    check(nn.Sequential(randomize(norm), nn.Flatten(), randomize(nn.Linear(x[0].numel(), 2))), x)


def test_a_shift_that_the_rule_leaves_out() -> None:
    norm, x, seed = randomize(nn.LayerNorm(4)), random(3, 4), random(3, 4, seed=1)
    _, actual = of_parameters(nn.Sequential(norm), [("0", rules.Epsilon(0.0, bias=False))], [x], seed)
    assert_relevance(actual["0.weight"], seed.sum(0))
    assert actual["0.bias"].abs().max() == 0


def test_a_row_for_padding_is_a_row_like_any_other() -> None:
    """``padding_idx`` only keeps a row from being trained."""
    table = randomize(nn.Embedding(3, 2, padding_idx=1))
    tokens, seed = torch.tensor([[1, 2], [1, 1]]), random(2, 2, 2, seed=1)
    _, actual = of_parameters(nn.Sequential(table), LRP0, [tokens], seed)
    rows = [torch.zeros(2).double(), seed[0, 0] + seed[1, 0] + seed[1, 1], seed[0, 1]]
    assert_relevance(actual["0.weight"], torch.stack(rows))


class Arithmetic(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.p, self.function = nn.Parameter(torch.tensor([2.0, -1.0]).double()), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.p)


# x = [1, 2] and [3, 4], R = [6, 6] and [8, 8]
BY_HAND: list[tuple[Any, Callable[[Tensor, Tensor], Tensor], list[float]]] = [
    (LRP0, lambda x, p: x + p, [6 * 2 / 3 + 8 * 2 / 5, 6 * -1 / 1 + 8 * -1 / 3]),
    (LRP0, lambda x, p: x - p, [6 * -2 / -1 + 8 * -2 / 1, 6 * 1 / 3 + 8 * 1 / 5]),
    (LRP0, lambda x, p: x * p, [14.0, 14.0]),
    (LRP0, lambda x, p: p * x, [14.0, 14.0]),
    (LRP0, lambda x, p: x / p, [14.0, 14.0]),
    ([("add", rules.Magnitude(0.0))], lambda x, p: x + p, [6 * 2 / 3 + 8 * 2 / 5, 6 * 1 / 3 + 8 * 1 / 5]),
    ([("add", rules.Equal())], lambda x, p: x + p, [0.0, 0.0]),
    ([("add", rules.Only(0))], lambda x, p: x + p, [0.0, 0.0]),
    ([("add", rules.Only(1))], lambda x, p: x + p, [14.0, 14.0]),
    (LRP0, lambda x, p: torch.maximum(x, p), [6.0, 0.0]),
    (LRP0, lambda x, p: x * torch.exp(p), [14.0, 14.0]),
    (LRP0, lambda x, p: x + p.clone().neg(), [6 * -2 / -1 + 8 * -2 / 1, 6 * 1 / 3 + 8 * 1 / 5]),
]


@pytest.mark.parametrize(("rule", "function", "numbers"), BY_HAND)
def test_numbers_by_hand(rule: Any, function: Callable[[Tensor, Tensor], Tensor], numbers: list[float]) -> None:
    x, seed = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(), torch.tensor([[6.0, 6.0], [8.0, 8.0]]).double()
    _, actual = of_parameters(Arithmetic(function), rule, [x], seed)
    assert_relevance(actual["p"], torch.tensor(numbers, dtype=torch.float64), 1e-9)


def test_it_does_not_depend_on_the_other_parameters() -> None:
    model, x = Computed().eval(), random(5, 4)
    seed = random(*model(x).shape, seed=3)
    _, together = of_parameters(model, LRP0, [x], seed)
    for name, relevance in together.items():
        program = program_with_parameters(model, LRP0, [name])
        with torch.no_grad():
            _, (alone,) = program.graph_module(x, seed)
        assert_relevance(alone, relevance)


def test_parameters_without_a_rule_are_an_error() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    with pytest.raises(UnsupportedOpError, match=r"SignalTakeAll.* does not define the relevance of the .*'rnn'"):
        program_with_parameters(Recurrent(), None, ["rnn.weight_ih_l0"])


def test_the_reads_of_a_parameter() -> None:
    program = program_with_parameters(Tokens().double(), LRP0, [])
    assert reads_of(program, "places.weight")
    assert set(reads_of(program, "embed.weight")) == set(reads_of(program, "head.weight"))
    assert reads_of(program, "embed") == reads_of(program, "nothing") == ()


@pytest.mark.parametrize("name", ["resnet18", *slow_ones("mobilenet_v2", "densenet121")])
def test_a_network_of_torchvision(name: str) -> None:
    model, x = zoo.calibrated(name)
    check(model, x)

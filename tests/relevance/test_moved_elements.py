"""What transformers use to move elements, and other linear maps: windows, gathering, cosines."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp import presets
from helpers import FRONT_ENDS, Function, assert_close, explained, of_one, of_two
from oracles import dense_map, epsilon_rule, move_back, random, randomize, through
from transformer_oracles import by_jacobian
from transformer_parts import SEED, X

IMAGE = random(2, 4, 4, 4, seed=1)


def windows(x: Tensor) -> Tensor:
    """Shifted windows of 2 x 2, as in Swin."""
    x = torch.roll(x, shifts=(-1, -1), dims=(2, 3)).permute(0, 2, 3, 1)
    b, h, w, c = x.shape
    x = x.view(b, h // 2, 2, w // 2, 2, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, c)


def and_back(x: Tensor) -> Tensor:
    parts = windows(x) * 2
    x = parts.view(-1, 2, 2, 2, 2, 4).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, 4, 4)
    return torch.roll(x, shifts=(1, 1), dims=(1, 2))


INDEX = torch.tensor([2, 0, 2, 3])
GATHERED = torch.randint(0, 4, (2, 4, 4, 2), generator=torch.Generator().manual_seed(0))
MOVES: dict[str, Function] = {
    "windows": windows,
    "windows and back": and_back,
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "nn.PixelShuffle": nn.PixelShuffle(2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "unfold": lambda x: F.unfold(x, 2),
    "unfold with options": lambda x: F.unfold(x, (3, 2), dilation=1, padding=1, stride=(2, 1)),
    "Tensor.unfold": lambda x: x.unfold(2, 3, 1),
    "Tensor.unfold twice": lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4),
    "index": lambda x: x[:, INDEX],
    "index of two dimensions": lambda x: x[:, INDEX, INDEX],
    "index of apart dimensions": lambda x: x[:, INDEX, :, INDEX],
    "bool index": lambda x: x[:, torch.tensor([True, False, True, True])],
    "index_select": lambda x: x.index_select(2, INDEX),
    "gather": lambda x: x.gather(-1, GATHERED),
    "take_along_dim": lambda x: torch.take_along_dim(x, GATHERED, dim=-1),
    "class token": lambda x: x.flatten(2)[:, :, 0],
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "swapaxes and movedim": lambda x: x.swapaxes(1, 2).movedim(-1, 1),
    "unbind": lambda x: x.unbind(1)[2],
    "diagonal": lambda x: x.diagonal(dim1=2, dim2=3),
    "tril": lambda x: x.tril(),
    "sort": lambda x: x.sort(dim=-1).values,
    "sort descending": lambda x: torch.sort(x, dim=1, descending=True)[0],
    "topk": lambda x: x.topk(2, dim=-1).values,
    "smallest": lambda x: torch.topk(x, 3, dim=2, largest=False)[0],
    "max": lambda x: x.max(dim=-1).values,
    "max kept": lambda x: torch.max(x, 1, keepdim=True)[0],
    "min": lambda x: x.min(dim=2)[0],
    "amax": lambda x: x.amax(dim=(2, 3)),
    "argsort and gather": lambda x: x.gather(-1, x.argsort(dim=-1)),
}


@pytest.mark.parametrize("name", MOVES)
def test_relevance_follows_the_elements(name: str) -> None:
    """J^T R with J a matrix of zeros and ones; duplicates add up, the chosen element takes all."""
    function = MOVES[name]
    seed = random(*function(IMAGE).shape, seed=2)
    expected = move_back(function, IMAGE, seed / 2 if name == "windows and back" else seed)
    assert_close(of_one(function, IMAGE, seed), expected)


@pytest.mark.parametrize("name", ["windows and back", "Tensor.unfold", "topk", "gather", "index of two dimensions"])
def test_relevance_follows_the_elements_through_export(name: str) -> None:
    function = MOVES[name]
    seed = random(*function(IMAGE).shape, seed=2)
    expected = move_back(function, IMAGE, seed / 2 if name == "windows and back" else seed)
    assert_close(of_one(function, IMAGE, seed, capture="export"), expected)


ROWS, PLACES = torch.tensor([2, 0]), (torch.tensor([1, 0]), torch.tensor([2, 3]))
WRITES: dict[str, Function] = {
    "index_put": lambda x: x.index_put((ROWS,), x[:2] * 2),
    "index_put in place": lambda x: x.clone().index_put_(PLACES, x[0, :2] * 2),
    "index_put of an expanded value": lambda x: x.index_put((ROWS,), x[1] * 2),
    "index_put behind a dimension": lambda x: torch.ops.aten.index_put(x, (None, ROWS), x[:, 1:3] * 2),
    "select_scatter": lambda x: x.select_scatter(x[:, :, 0] * 2, 2, 1),
    "select_scatter from the end": lambda x: x.select_scatter(x[:, 0] * 2, -2, -1),
    "slice_scatter": lambda x: x.slice_scatter(x * 2),
    "slice_scatter with a step": lambda x: torch.slice_scatter(x, x[:, :2] * 2, 1, 0, 4, 2),
    "slice_scatter from the end": lambda x: x.slice_scatter(x[..., :2] * 2, -1, -2),
}


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_keeps_its_relevance(name: str, capture: str) -> None:
    """An assignment, whatever the stabilizer: LRP-0 is the gradient times the input."""

    def function(x: Tensor) -> Tensor:
        return WRITES[name](x)

    x = random(3, 4, 4)
    leaf = x.clone().requires_grad_()
    out = function(leaf)
    seed = random(*out.shape, seed=2)
    (gradient,) = torch.autograd.grad(out, leaf, seed)
    found = of_one(function, x, out.detach() * seed, presets.epsilon(0.5), capture=capture)
    assert_close(found, x * gradient)


LINEAR_MAPS: dict[str, Function] = {
    "cumsum": lambda x: x.cumsum(dim=-1),
    "torch.cumsum": lambda x: torch.cumsum(x, 1),
    "fold": lambda x: F.fold(x.flatten(2).reshape(2, 8, 8), (3, 5), (2, 2)),
    "sum": lambda x: x.sum((1, 2)),
    "mean": lambda x: x.mean(1),
    "conv_transpose2d": randomize(nn.ConvTranspose2d(4, 3, 2, stride=2), 5),
    "conv_transpose2d with options": randomize(
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), 6
    ),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
}


@pytest.mark.parametrize("name", LINEAR_MAPS)
def test_linear_map(name: str) -> None:
    """x * J^T(R / s(z))."""
    function = LINEAR_MAPS[name]
    seed = random(*function(IMAGE).shape, seed=2)
    assert_close(of_one(function, IMAGE, seed), by_jacobian(function, IMAGE, seed))


def test_conv_transpose_by_its_matrix() -> None:
    layer = LINEAR_MAPS["conv_transpose2d"]
    assert isinstance(layer, nn.Module)
    seed = random(2, 3, 8, 8, seed=2)
    expected = through(epsilon_rule, dense_map(layer, (4, 4, 4)), IMAGE, seed)
    assert_close(explained(layer, (IMAGE,), seed), expected)


@pytest.mark.parametrize(
    ("function", "first_wins"),
    [
        (torch.maximum, True),
        (torch.minimum, False),
        (lambda a, b: torch.max(a, b), True),
        (lambda a, b: torch.min(a, b), False),
        (lambda a, b: a.maximum(b), True),
    ],
    ids=["maximum", "minimum", "max", "min", "method"],
)
def test_elementwise_winner_takes_all(function: Function, first_wins: bool) -> None:
    other = random(2, 3, 6, seed=5)
    to_first = torch.gt(X, other) == first_wins
    zero = torch.zeros_like(SEED)
    expected = (torch.where(to_first, SEED, zero), torch.where(to_first, zero, SEED))
    assert_close(of_two(function, X, other, SEED), expected)


COSINES: dict[str, Function] = {
    "F.cosine_similarity": lambda a, b: F.cosine_similarity(a, b, dim=-1),
    "nn.CosineSimilarity": nn.CosineSimilarity(dim=-1),
    "normalize": lambda a, b: (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(-1),
    "norms": lambda a, b: (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)),
    "einsum": lambda a, b: torch.einsum("bnd,bnd->bn", a / a.norm(dim=-1, keepdim=True), F.normalize(b, dim=-1)),
}


@pytest.mark.parametrize("name", COSINES)
def test_cosine_similarity(name: str) -> None:
    """The norms are statistics, and the inner product is shared by halves: a b R / (2 sum a b), without stabilizer."""
    other, seed = random(2, 3, 6, seed=5), random(2, 3, seed=6)
    half = X * other * (seed / (2 * (X * other).sum(-1)))[..., None]
    assert_close(of_two(COSINES[name], X, other, seed, presets.epsilon(epsilon=0)), (half, half))


def test_scores_against_normalized_prototypes() -> None:
    """CLIP's head: normalized features times normalized constants, scaled."""
    prototypes, seed = F.normalize(random(5, 6, seed=7), dim=-1), random(2, 3, 5, seed=8)
    relevance = of_one(
        lambda x: 20.0 * (x / x.norm(dim=-1, keepdim=True)) @ prototypes.T, X, seed, presets.epsilon(epsilon=0)
    )
    assert_close(relevance, X * ((seed / (X @ prototypes.T)) @ prototypes))


def test_an_empty_tensor_of_one_dimension_joins_any_shape() -> None:
    class Cache(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.tensor([], dtype=x.dtype), 2 * x], -2)

    x = torch.randn(2, 3, 4, dtype=torch.float64)
    for capture in ("symbolic", "export"):
        explain = fxlrp.compile(Cache().eval(), presets.epsilon(0.0), example_inputs=x, capture=capture)
        torch.testing.assert_close(explain(x, seed=lambda output: output), 2 * x)

"""Positions and padding: rotary, relative and learned embeddings, masks; against closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transformer_oracles as oracle
from helpers import FRONT_ENDS, Function, assert_close, explained, of_one
from oracles import random, randomize, stabilize
from transformer_oracles import CONVENTIONS, by_jacobian
from transformer_parts import ATTENTION_SEED, IDS, SEED, K, Q, V, X, rotate_half

PLAIN = CONVENTIONS["epsilon"]

ANGLES = torch.outer(torch.arange(3.0, dtype=torch.float64), torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64))
COS, SIN = torch.cat([ANGLES, ANGLES], -1).cos(), torch.cat([ANGLES, ANGLES], -1).sin()


def rotated(x: Tensor) -> Tensor:
    return x * COS + rotate_half(x) * SIN


def interleaved(x: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = ANGLES.cos(), ANGLES.sin()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


@pytest.mark.parametrize("function", [rotated, interleaved], ids=["halves", "interleaved"])
@pytest.mark.parametrize("preset", CONVENTIONS)
def test_rotary_embedding(function: Function, preset: str) -> None:
    """A rotation by constants is one linear map: x * J^T(R / s(z))."""
    assert_close(of_one(function, X, SEED, preset), by_jacobian(function, X, SEED))


def test_rotary_embedding_with_computed_angles() -> None:
    """Frequencies in a buffer, angles from torch.arange over the length."""

    class Rotary(nn.Module):
        frequencies: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("frequencies", torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            positions = torch.arange(x.shape[1], dtype=torch.float64, device=x.device)
            angles = torch.outer(positions, self.frequencies)
            angles = torch.cat((angles, angles), dim=-1)
            return x * angles.cos() + rotate_half(x) * angles.sin()

    for capture in FRONT_ENDS:
        assert_close(explained(Rotary(), (X,), SEED, capture=capture), by_jacobian(rotated, X, SEED))


def test_relative_position_bias() -> None:
    """Rows of a table, chosen by a constant index, are a constant term of the scores."""

    class Relative(nn.Module):
        index: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(random(5, 2, seed=7))
            self.register_buffer("index", torch.arange(3)[:, None] - torch.arange(3)[None, :] + 2)

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            bias = self.table[self.index.view(-1)].view(3, 3, 2).permute(2, 0, 1).contiguous()
            scores = (q * 0.5) @ k.transpose(-2, -1) + bias.unsqueeze(0)
            return scores.softmax(dim=-1) @ v

    model = Relative()
    k, v = K[:, :, :3], V[:, :, :3]
    bias = model.table.detach()[model.index].permute(2, 0, 1)
    expected = oracle.attention(Q, k, v, PLAIN, bias=bias)[1](ATTENTION_SEED)
    assert_close(explained(model, (Q, k, v), ATTENTION_SEED), expected)


def test_position_bias_from_an_embedding() -> None:
    """As T5 does: an embedding of constant indices is as constant as they are."""

    class Relative(nn.Module):
        index: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.table = randomize(nn.Embedding(5, 2), 7)

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            positions = torch.arange(3)
            bias = self.table(positions[:, None] - positions[None, :] + 2).permute(2, 0, 1).unsqueeze(0)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    model = Relative()
    k, v = K[:, :, :3], V[:, :, :3]
    index = torch.arange(3)[:, None] - torch.arange(3)[None, :] + 2
    bias = model.table.weight.detach()[index].permute(2, 0, 1)
    expected = oracle.attention(Q, k, v, PLAIN, bias=bias)[1](ATTENTION_SEED)
    for capture in FRONT_ENDS:
        assert_close(explained(model, (Q, k, v), ATTENTION_SEED, capture=capture), expected)


class Embedded(nn.Module):
    """Token and position embedding, and a linear layer."""

    positions: Tensor

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.token = randomize(nn.Embedding(6, 5, padding_idx=0), 1)
        self.position = randomize(nn.Embedding(4, 5), 2)
        self.register_buffer("positions", torch.arange(4).expand(1, -1))
        self.linear = randomize(nn.Linear(5, 3), 3)

    def forward(self, ids: Tensor) -> Tensor:
        if self.style == "buffer":
            position = self.position(self.positions[:, : ids.shape[1]])
        elif self.style == "arange":
            position = self.position(torch.arange(ids.shape[1], device=ids.device))
        else:
            position = self.position.weight
        return self.linear(self.token(ids) + position)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("style", ["buffer", "arange", "parameter"])
def test_token_and_position_embedding(style: str, capture: str) -> None:
    """A token has the sum over its features; the position takes its share as a constant."""
    model, seed = Embedded(style), random(2, 4, 3)
    tokens, positions = model.token.weight.detach()[IDS], model.position.weight.detach()
    _, back = oracle.linear(tokens + positions, model.linear.weight.detach(), model.linear.bias.detach())
    expected = oracle.add(tokens, positions)[1](back(seed))[0].sum(-1)
    assert_close(explained(model, (IDS,), seed, capture=capture), expected)


class PaddedAttention(nn.Module):
    """Keys of padding are masked out."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.token = randomize(nn.Embedding(6, 4), 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)
        keep = (ids != 0)[:, None, :]
        scores = (x * 0.5) @ x.transpose(1, 2)
        if self.style == "masked_fill":
            scores = scores.masked_fill(~keep, float("-inf"))
        elif self.style == "where":
            scores = torch.where(keep, scores, torch.finfo(scores.dtype).min)
        else:
            scores = scores + (1.0 - keep.to(scores.dtype)) * -1e9
        return scores.softmax(-1) @ x


@pytest.mark.parametrize("capture", ["auto", "export"])
@pytest.mark.parametrize("style", ["masked_fill", "where", "sum"])
def test_padding_mask(style: str, capture: str) -> None:
    model, seed = PaddedAttention(style), random(2, 4, 4)
    x, keep = model.token.weight.detach()[IDS], (IDS != 0)[:, None]
    told = {"bias": (1.0 - keep.double()) * -1e9} if style == "sum" else {"keep": keep}
    expected = sum(oracle.attention(x, x, x, PLAIN, scale=0.5, **told)[1](seed), torch.zeros_like(x))
    assert_close(explained(model, (IDS,), seed, capture=capture), expected.sum(-1))


def test_padding_mask_that_is_an_input() -> None:
    """A mask of integers beside the tokens selects nothing of an embedding, and has no relevance."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = randomize(nn.Embedding(6, 4), 1)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            x = self.token(ids)
            scores = (x * 0.5) @ x.transpose(1, 2)
            return scores.masked_fill(mask[:, None, :] == 0, float("-inf")).softmax(-1) @ x

    model, seed = Masked(), random(2, 4, 4)
    x, keep = model.token.weight.detach()[IDS], (IDS != 0)[:, None]
    expected = sum(oracle.attention(x, x, x, PLAIN, scale=0.5, keep=keep)[1](seed), torch.zeros_like(x)).sum(-1)
    found = explained(model, (IDS, (IDS != 0).long()), seed)
    assert_close(found, expected)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_two_embeddings_of_inputs(capture: str) -> None:
    """Tokens and their types share the sum with the positions, and each has relevance of its own."""

    class Bert(nn.Module):
        ids: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.word, self.kind = randomize(nn.Embedding(6, 5), 1), randomize(nn.Embedding(2, 5), 2)
            self.position, self.norm = randomize(nn.Embedding(4, 5), 3), randomize(nn.LayerNorm(5), 4)
            self.register_buffer("ids", torch.arange(4)[None])

        def forward(self, words: Tensor, kinds: Tensor) -> Tensor:
            x = self.word(words) * 5**0.5 + self.kind(kinds)
            return self.norm(x + self.position(self.ids[:, : words.size(1)]))

    model, kinds, seed = Bert(), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]]), random(2, 4, 5)
    words, types = model.word.weight.detach()[IDS] * 5**0.5, model.kind.weight.detach()[kinds]
    both, both_back = oracle.add(words, types)
    x, back = oracle.add(both, model.position.weight.detach())
    at_words, at_types = both_back(back(oracle.layer_norm(x, model.norm)[1](seed))[0])
    assert_close(explained(model, (IDS, kinds), seed, capture=capture), (at_words.sum(-1), at_types.sum(-1)))


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_embedding_of_what_only_the_shape_decides(capture: str) -> None:
    """Types that default to zeros are as constant as positions."""

    class Bert(nn.Module):
        ids: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.word, self.kind = randomize(nn.Embedding(6, 5), 1), randomize(nn.Embedding(2, 5), 2)

        def forward(self, words: Tensor) -> Tensor:
            kinds = torch.zeros(words.shape, dtype=torch.long, device=words.device)
            return self.word(words) + self.kind(torch.zeros_like(words)) + self.kind(kinds)

    model, seed = Bert(), random(2, 4, 5)
    words, kind = model.word.weight.detach()[IDS], model.kind.weight.detach()[0]
    both, both_back = oracle.add(words, kind)
    expected = both_back(both * seed / stabilize(both + kind))[0].sum(-1)
    assert_close(explained(model, (IDS,), seed, capture=capture), expected)

"""What reads a sequence out: attention pooling, masked means, the last token, a class token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import transformer_oracles as oracle
from helpers import FRONT_ENDS, assert_close, explained
from oracles import EPSILON, random, randomize, stabilize
from transformer_oracles import CONVENTIONS
from transformer_parts import IDS, TOKENS, X, affine, multi_head, self_attention

PLAIN = CONVENTIONS["epsilon"]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_attention_pooling(convention: str) -> None:
    """Tokens summed with softmax weights of their own scores: a gate, or half of it."""

    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score = randomize(nn.Linear(6, 1), 1)

        def forward(self, x: Tensor) -> Tensor:
            return (torch.softmax(self.score(x), dim=1) * x).sum(1)

    model, conventions, seed = Pooling(), CONVENTIONS[convention], random(2, 6)
    scores, score_back = affine(X, model.score, EPSILON)
    weights, weights_back = oracle.softmax(scores, 1)
    at_product = weights * X * (seed / stabilize((weights * X).sum(1)))[:, None]
    expected = at_product
    if conventions.halved_products:
        expected = at_product / 2 + score_back(weights_back((at_product / 2).sum(-1, keepdim=True)))
    assert_close(explained(model, (X,), seed, convention), expected)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_class_token(capture: str) -> None:
    """As vision transformers do: a parameter is put before the tokens, positions are added, its output is taken."""

    class ClassToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.positions = nn.Parameter(random(1, 1, 8)), nn.Parameter(random(1, 5, 8, seed=1))
            self.module, self.head = multi_head(), randomize(nn.Linear(8, 3), 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
            return self.head(self.module(x, x, x, need_weights=False)[0][:, 0])

    model, seed = ClassToken(), random(2, 3)
    x, back = oracle.add(torch.cat([model.token.detach().expand(2, 1, 8), TOKENS], 1), model.positions.detach())
    mixed, _ = self_attention(x, x, model.module, PLAIN)
    at_mixed = torch.zeros_like(mixed)
    at_mixed[:, 0] = affine(mixed[:, 0], model.head, EPSILON)[1](seed)
    _, at_sum = self_attention(x, at_mixed, model.module, PLAIN)
    assert_close(explained(model, (TOKENS,), seed, capture=capture), back(at_sum)[0][:, 1:])


POOLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum over count": lambda x, mask: (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True),
    "expanded": lambda x, mask: (
        torch.sum(x * mask.unsqueeze(-1).expand(x.size()).to(x.dtype), 1) / mask.sum(1, keepdim=True).clamp(min=1)
    ),
    "masked_fill": lambda x, mask: x.masked_fill(mask.unsqueeze(-1) == 0, 0.0).sum(1) / mask.sum(1)[:, None],
    "matmul": lambda x, mask: (mask.to(x.dtype)[:, None] @ x)[:, 0] / mask.sum(1, keepdim=True),
}


@pytest.mark.parametrize("capture", ["auto", "export"])
@pytest.mark.parametrize("name", POOLS)
def test_masked_mean(name: str, capture: str) -> None:
    """Tokens share in proportion; padding has nothing, and the count is a constant."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = randomize(nn.Embedding(6, 5), 1)

        def forward(self, ids: Tensor) -> Tensor:
            return POOLS[name](self.token(ids), (ids != 0).to(torch.long))

    model, seed = Masked(), random(2, 5)
    x = model.token.weight.detach()[IDS] * (IDS != 0)[..., None]
    expected = (x * (seed / stabilize(x.sum(1)))[:, None]).sum(-1)
    assert_close(explained(model, (IDS,), seed, capture=capture), expected)


LAST: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "arange": lambda x, last: x[torch.arange(2), last],
    "arange of the batch": lambda x, last: x[torch.arange(x.shape[0], device=x.device), last],
    "gather": lambda x, last: x.gather(1, last[:, None, None].expand(-1, 1, x.size(-1))).squeeze(1),
    "argmax": lambda x, last: x[torch.arange(x.shape[0]), (torch.arange(4)[None] == last[:, None]).int().argmax(-1)],
}


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("name", LAST)
def test_last_token_of_each_sample(name: str, capture: str) -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.head = randomize(nn.Embedding(6, 5), 1), randomize(nn.Linear(5, 3), 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(LAST[name](self.token(ids), (ids != 0).sum(1) - 1))

    model, seed = Last(), random(2, 3)
    last = (IDS != 0).sum(1) - 1
    x = model.token.weight.detach()[IDS]
    expected = torch.zeros(2, 4, dtype=torch.float64)
    expected[torch.arange(2), last] = affine(x[torch.arange(2), last], model.head, EPSILON)[1](seed).sum(-1)
    assert_close(explained(model, (IDS,), seed, capture=capture), expected)

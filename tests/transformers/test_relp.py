"""RelP on a transformer in the shape of GPT-2, against a detached twin in plain PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from fxlrp.attention import attention
from fxlrp.rules.specs import Gradient
from oracles import assert_relevance, randomize

WIDTH, HEADS, LAYERS, WORDS = 12, 3, 2, 11


def frozen_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A layer norm whose standard deviation is a constant."""
    deviation = (x.var(-1, keepdim=True, unbiased=False) + norm.eps).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias


def frozen_gelu(x: Tensor) -> Tensor:
    """An activation as a multiplication by a constant."""
    return x * (F.gelu(x) / x).detach()


def halved(a: Tensor, b: Tensor) -> Tensor:
    """A product whose factors have half their gradient."""
    product = a * b
    return product / 2 + (product / 2).detach()


class Block(nn.Module):
    def __init__(self, way: str, gated: bool) -> None:
        super().__init__()
        self.way, self.gated = way, gated
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.gate, self.down = (nn.Linear(*sizes) for sizes in ((WIDTH, 20), (WIDTH, 20), (20, WIDTH)))

    def attended(self, x: Tensor, way: str) -> Tensor:
        q, k, v = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in self.c_attn(x).chunk(3, -1))
        if way == "sdpa":
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            hidden = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).triu(1)
            if way == "einsum":
                scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
            else:
                scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            weights = torch.softmax(scores.masked_fill(hidden, -math.inf), -1)
            out = torch.einsum("bhqk,bhkd->bhqd", weights, v) if way == "einsum" else weights @ v
        return self.c_proj(out.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attended(self.ln_1(x), self.way)
        h = self.ln_2(x)
        inner = F.gelu(self.up(h))
        return x + self.down(inner * self.gate(h) if self.gated else inner)

    def frozen(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        """The output; adds what attention and the MLP read and what they return."""
        kept.append(x)
        attended = self.attended(frozen_norm(self.ln_1, x), "softmax")
        kept.append(attended)
        x = x + attended
        kept.append(x)
        h = frozen_norm(self.ln_2, x)
        inner = frozen_gelu(self.up(h))
        changed = self.down(halved(inner, self.gate(h)) if self.gated else inner)
        kept.append(changed)
        return x + changed


class GPT2(nn.Module):
    def __init__(self, way: str, gated: bool) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH), nn.Embedding(32, WIDTH)
        self.h = nn.ModuleList(Block(way, gated) for _ in range(LAYERS))
        self.ln_f, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.head(self.ln_f(x))

    def relevances(self, ids: Tensor, word: int) -> tuple[Tensor, list[Tensor]]:
        """Value times gradient of the twin: at the word embeddings, and at every other value of a block."""
        values, gradients = self.gradients(ids, word)
        found = [(value * gradient).detach() for value, gradient in zip(values, gradients, strict=True)]
        return found[0], found[1:]

    def gradients(self, ids: Tensor, word: int) -> tuple[list[Tensor], list[Tensor]]:
        """The word embeddings and the values of every block, and the gradients of the twin."""
        words = self.wte(ids).detach().requires_grad_()
        kept: list[Tensor] = []
        x = words + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            assert isinstance(block, Block)
            x = block.frozen(x, kept)
        output = self.head(frozen_norm(self.ln_f, x))
        torch.testing.assert_close(output, self(ids))
        return [words, *kept], list(torch.autograd.grad(output[:, -1, word].sum(), [words, *kept]))


def model_of(way: str, gated: bool = False) -> GPT2:
    model = randomize(GPT2(way, gated))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight /= 4
    return model


IDS = torch.tensor([[1, 5, 2, 0, 7, 3], [3, 3, 8, 10, 4, 9]])


@pytest.mark.sampled(3, "way")
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("way", ["sdpa", "softmax", "einsum"])
@pytest.mark.parametrize("optimize", [True, False])
def test_relp_equals_a_detached_twin(way: str, gated: bool, optimize: bool) -> None:
    model = model_of(way, gated)
    expected, _ = model.relevances(IDS, 4)
    assert expected.abs().max() > 1e-3
    explain = fxlrp.compile(model, "relp", example_inputs=IDS, at="wte", optimize=optimize)
    assert_relevance(explain(IDS, target=(-1, 4)), expected, 1e-6)
    of_tokens = fxlrp.compile(model, "relp", example_inputs=IDS, optimize=optimize)
    assert_relevance(of_tokens(IDS, target=(-1, 4)), expected.sum(-1), 1e-6)


@pytest.mark.parametrize("block", range(1, LAYERS))
def test_relp_at_the_residual_stream(block: int) -> None:
    model = model_of("sdpa")
    _, kept = model.relevances(IDS, 4)
    explain = fxlrp.compile(model, "relp", example_inputs=IDS, at=f"h_{block - 1}_add_1")
    assert_relevance(explain(IDS, target=(-1, 4)), kept[4 * block], 1e-6)


@pytest.mark.parametrize("gated", [False, True])
def test_the_coefficients_of_every_residual_attention_and_mlp(gated: bool) -> None:
    """One call for all of them: the gradients of the twin."""
    model = model_of("sdpa", gated)
    _, gradients = model.gradients(IDS, 4)
    explain = fxlrp.compile(model, "relp", example_inputs=IDS)
    names = ["wte"]
    for block in range(LAYERS):
        read = f"h.{block - 1}" if block else "add"
        names += [read, f"h.{block}.c_proj", f"h_{block}_add", f"h.{block}.down"]
    found = explain(IDS, target=(-1, 4), at=names, coefficients=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert_relevance(found[name], gradient, 1e-6)


@pytest.mark.parametrize("way", ["sdpa", "softmax", "einsum"])
def test_attention_is_one_operation(way: str) -> None:
    explain = fxlrp.compile(model_of(way), "relp", example_inputs=IDS)
    assert sum(node.target is attention for node in explain.nodes) == LAYERS
    fused = [node for node in explain.nodes if node.target is attention]
    assert all(node.meta["fxlrp"].rule == Gradient() and node.meta["fxlrp"].carries == (0, 1, 2) for node in fused)


def test_attnlrp_differs() -> None:
    model = model_of("sdpa")
    expected, _ = model.relevances(IDS, 4)
    found = fxlrp.compile(model, "attnlrp", example_inputs=IDS, at="wte")(IDS, target=(-1, 4))
    assert (found - expected).abs().max() > 1e-2 * expected.abs().max()

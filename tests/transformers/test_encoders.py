"""Whole encoders, decoders and language models against closed forms, end to end."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import transformer_oracles as oracle
from fxlrp import presets
from helpers import FRONT_ENDS, assert_close, explained
from oracles import EPSILON, random, randomize, stabilize
from transformer_oracles import CONVENTIONS, Conventions
from transformer_parts import FIRST, IDS, PADDED, TOKENS, TOKENS_SEED, affine, rotate_half

PLAIN = CONVENTIONS["epsilon"]


class Block(nn.Module):
    """Pre-norm; the second kind has RMS norms and a gated MLP."""

    def __init__(self, seed: int, modern: bool) -> None:
        super().__init__()
        self.modern = modern
        self.first, self.second = nn.LayerNorm(8), nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.ones(8))
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.gate, self.down = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)
        randomize(self, seed)

    def norm(self, x: Tensor, which: nn.LayerNorm) -> Tensor:
        if not self.modern:
            return which(x)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x, self.first)).chunk(3, dim=-1)
        q, k, v = (t.view(b, n, 2, 4).transpose(1, 2) for t in (q, k, v))
        if self.modern:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        else:
            scores = (q * 4**-0.5) @ k.transpose(-2, -1)
            mixed = F.softmax(scores.masked_fill(~keep, float("-inf")), dim=-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, 8))
        h = self.norm(x, self.second)
        h = F.silu(self.gate(h)) * self.up(h) if self.modern else F.gelu(self.up(h))
        return x + self.down(h)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.position = randomize(nn.Embedding(6, 8), 1), randomize(nn.Embedding(4, 8), 2)
        self.blocks = nn.ModuleList([Block(3, False), Block(4, True)])
        self.norm, self.head = randomize(nn.LayerNorm(8), 5), randomize(nn.Linear(8, 3), 6)

    def forward(self, ids: Tensor) -> Tensor:
        keep = (ids != 0)[:, None, None, :]
        x = self.token(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x, keep)
        return self.head(self.norm(x).mean(dim=1))


def explain_block(x: Tensor, block: Any, keep: Tensor, conventions: Conventions) -> tuple[Tensor, oracle.Back]:
    """The block forwards, step by step, and then backwards."""
    epsilon = conventions.epsilon

    def norm(x: Tensor, which: nn.LayerNorm) -> tuple[Tensor, oracle.Back]:
        if not block.modern:
            return oracle.layer_norm(x, which, epsilon)
        sigma = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x / sigma * block.scale.detach(), lambda relevance: relevance

    normed, norm_back = norm(x, block.first)
    qkv, qkv_back = affine(normed, block.qkv, epsilon)
    q, k, v = (oracle.split_heads(t, 2) for t in qkv.chunk(3, dim=-1))
    mixed, mixed_back = oracle.attention(q, k, v, conventions, keep=keep)
    branch, branch_back = affine(oracle.join_heads(mixed), block.out, epsilon)
    middle, middle_back = oracle.add(x, branch, epsilon)
    normed_again, again_back = norm(middle, block.second)
    up, up_back = affine(normed_again, block.up, epsilon)
    gate, gate_back = affine(normed_again, block.gate, epsilon)
    hidden, hidden_back = oracle.gated(up, gate, F.silu, conventions) if block.modern else (F.gelu(up), None)
    down, down_back = affine(hidden, block.down, epsilon)
    out, out_back = oracle.add(middle, down, epsilon)

    def back(relevance: Tensor) -> Tensor:
        at_middle, at_down = out_back(relevance)
        at_hidden = down_back(at_down)
        if hidden_back is None:
            at_normed = up_back(at_hidden)
        else:
            at_up, at_gate = hidden_back(at_hidden)
            at_normed = up_back(at_up) + gate_back(at_gate)
        at_x, at_branch = middle_back(at_middle + again_back(at_normed))
        at_heads = mixed_back(oracle.split_heads(branch_back(at_branch), 2))
        return at_x + norm_back(qkv_back(torch.cat([oracle.join_heads(t) for t in at_heads], dim=-1)))

    return out, back


def explain_encoder(model: Encoder, ids: Tensor, seed: Tensor, conventions: Conventions) -> tuple[Tensor, Tensor]:
    """The output, and one relevance for each token."""
    epsilon, keep = conventions.epsilon, (ids != 0)[:, None, None, :]
    tokens, positions = model.token.weight.detach()[ids], model.position.weight.detach()
    x, embedding_back = oracle.add(tokens, positions, epsilon)
    x, first_back = explain_block(x, model.blocks[0], keep, conventions)
    x, second_back = explain_block(x, model.blocks[1], keep, conventions)
    normed, norm_back = oracle.layer_norm(x, model.norm, epsilon)
    pooled = normed.mean(1)
    out, head_back = affine(pooled, model.head, epsilon)
    at_pooled = head_back(seed) / stabilize(pooled, epsilon)
    at_x = norm_back(normed * at_pooled[:, None] / ids.shape[1])
    return out, embedding_back(first_back(second_back(at_x)))[0].sum(-1)


ENCODER_SEED = random(2, 3, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_encoder(convention: str, capture: str) -> None:
    model = Encoder().eval()
    out, expected = explain_encoder(model, IDS, ENCODER_SEED, CONVENTIONS[convention])
    torch.testing.assert_close(out, model(IDS).detach())
    assert_close(explained(model, (IDS,), ENCODER_SEED, convention, capture=capture), expected)


def test_front_ends_agree_on_the_encoder() -> None:
    model = Encoder().eval()
    first, second = (explained(model, (IDS,), ENCODER_SEED, "attnlrp", capture=capture) for capture in FRONT_ENDS)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def surrogate_encoder(model: Encoder, x: Tensor, keep: Tensor, conventions: Conventions) -> Tensor:
    """What the encoder computes from its embedded tokens, with what the rules hold constant detached."""
    x = x + model.position.weight
    block: Any
    for block in model.blocks:

        def norm(x: Tensor, which: nn.LayerNorm, block: Any = block) -> Tensor:
            if not block.modern:
                return oracle.held_norm(x, (-1,), which.weight, which.bias, which.eps)
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5).detach() * block.scale

        q, k, v = (oracle.split_heads(t, 2) for t in block.qkv(norm(x, block.first)).chunk(3, dim=-1))
        weights = oracle.held_matmul(q / 2, k.mT).masked_fill(~keep, -math.inf).softmax(-1)
        mixed = oracle.held_matmul(weights, v, conventions.constant_attention)
        x = x + block.out(oracle.join_heads(mixed))
        h = norm(x, block.second)
        if block.modern:
            gate = oracle.passed(F.silu, block.gate(h))
            h = oracle.held_product(block.up(h), gate, conventions.halved_products)
        else:
            h = oracle.passed(F.gelu, block.up(h))
        x = x + block.down(h)
    return model.head(oracle.held_norm(x, (-1,), model.norm.weight, model.norm.bias, model.norm.eps).mean(1))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_encoder_without_a_stabilizer_is_input_times_gradient(convention: str) -> None:
    """The second source, for the steps above and for the library."""
    model, conventions = Encoder().eval(), CONVENTIONS[convention].at(0.0)
    keep = (IDS != 0)[:, None, None, :]
    (at_tokens,) = oracle.input_times_gradient(
        lambda x: surrogate_encoder(model, x, keep, conventions), (model.token.weight.detach()[IDS],), ENCODER_SEED
    )
    _, steps = explain_encoder(model, IDS, ENCODER_SEED, conventions)
    torch.testing.assert_close(steps, at_tokens.sum(-1), rtol=1e-8, atol=1e-8)
    found = explained(model, (IDS,), ENCODER_SEED, conventions.preset())
    torch.testing.assert_close(found, at_tokens.sum(-1), rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_encoder_layer(norm_first: bool) -> None:
    """nn.TransformerEncoderLayer in eval mode, step by step."""
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True, norm_first=norm_first, activation="gelu")
    randomize(layer)
    attention_back: oracle.Backs
    if norm_first:
        normed, norm_back = oracle.layer_norm(TOKENS, layer.norm1)
        branch, attention_back = oracle.multi_head_attention(normed, normed, normed, layer.self_attn, PLAIN)
        middle, middle_back = oracle.add(TOKENS, branch)
        again, again_back = oracle.layer_norm(middle, layer.norm2)
        hidden, up_back = affine(again, layer.linear1, EPSILON)
        down, down_back = affine(F.gelu(hidden), layer.linear2, EPSILON)
        out, out_back = oracle.add(middle, down)
        at_middle, at_down = out_back(TOKENS_SEED)
        at_x, at_branch = middle_back(at_middle + again_back(up_back(down_back(at_down))))
        expected = at_x + norm_back(sum(attention_back(at_branch), torch.zeros_like(TOKENS)))
    else:
        branch, attention_back = oracle.multi_head_attention(TOKENS, TOKENS, TOKENS, layer.self_attn, PLAIN)
        added, added_back = oracle.add(TOKENS, branch)
        middle, norm1_back = oracle.layer_norm(added, layer.norm1)
        hidden, up_back = affine(middle, layer.linear1, EPSILON)
        down, down_back = affine(F.gelu(hidden), layer.linear2, EPSILON)
        again, sum_back = oracle.add(middle, down)
        out, norm2_back = oracle.layer_norm(again, layer.norm2)
        at_middle, at_down = sum_back(norm2_back(TOKENS_SEED))
        at_x, at_branch = added_back(norm1_back(at_middle + up_back(down_back(at_down))))
        expected = at_x + sum(attention_back(at_branch), torch.zeros_like(TOKENS))
    torch.testing.assert_close(out, layer(TOKENS).detach())
    assert_close(explained(layer, (TOKENS,), TOKENS_SEED), expected)


class Llama(nn.Module):
    """Rotary positions, grouped queries, RMS norms by hand, a gated MLP, a causal mask and tied embeddings."""

    frequencies: Tensor
    causal: Tensor

    def __init__(self, masked: str) -> None:
        super().__init__()
        self.masked = masked
        self.token = randomize(nn.Embedding(6, 12), 1)
        self.q, self.k = randomize(nn.Linear(12, 24, bias=False), 2), randomize(nn.Linear(12, 12, bias=False), 3)
        self.v, self.o = randomize(nn.Linear(12, 12, bias=False), 4), randomize(nn.Linear(24, 12, bias=False), 5)
        self.gate, self.up = randomize(nn.Linear(12, 7, bias=False), 6), randomize(nn.Linear(12, 7, bias=False), 7)
        self.down = randomize(nn.Linear(7, 12, bias=False), 8)
        self.first, self.second = nn.Parameter(random(12, seed=3)), nn.Parameter(random(12, seed=4))
        self.register_buffer("frequencies", torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64))
        self.register_buffer("causal", torch.ones(8, 8).tril().view(1, 1, 8, 8))

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.masked == "is_causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        n = q.size(2)
        scores = (q @ k.transpose(2, 3)) * q.size(-1) ** -0.5
        return scores.masked_fill(self.causal[:, :, :n, :n] == 0, float("-inf")).softmax(dim=-1) @ v

    def mlp(self, x: Tensor) -> Tensor:
        return F.silu(self.gate(x)) * self.up(x)

    def forward(self, ids: Tensor) -> Tensor:
        return self.run(self.token(ids))

    def run(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        angles = torch.outer(torch.arange(n, dtype=x.dtype, device=x.device), self.frequencies)
        angles = torch.cat([angles, angles], dim=-1)
        h = self.norm(x, self.first)
        q = self.q(h).view(b, n, 4, 6).transpose(1, 2)
        k = self.k(h).view(b, n, 2, 6).transpose(1, 2)
        v = self.v(h).view(b, n, 2, 6).transpose(1, 2)
        q, k = (t * angles.cos() + rotate_half(t) * angles.sin() for t in (q, k))
        x = x + self.o(self.mix(q, k, v).transpose(1, 2).reshape(b, n, 24))
        return F.linear(x + self.down(self.mlp(self.norm(x, self.second))), self.token.weight)


class HeldLlama(Llama):
    """Its surrogate, of embedded tokens."""

    halved = False

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6).detach())

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, (k, v) = q.shape[2], (t.repeat_interleave(2, 1) for t in (k, v))
        scores = oracle.held_matmul(q, k.mT) * 6**-0.5
        weights = scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -math.inf).softmax(-1)
        return oracle.held_matmul(weights, v)

    def mlp(self, x: Tensor) -> Tensor:
        return oracle.held_product(self.up(x), oracle.passed(F.silu, self.gate(x)), self.halved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("masked", "capture"), [("is_causal", "symbolic"), ("buffer", "symbolic"), ("is_causal", "export")]
)
@pytest.mark.parametrize("convention", ["epsilon", "attnlrp"])
def test_language_model(convention: str, masked: str, capture: Any) -> None:
    """LRP-0 of a logit of the last token is input times gradient of the surrogate, for each token."""
    conventions = CONVENTIONS[convention].at(0.0)
    model, held = Llama(masked).eval(), HeldLlama(masked)
    held.halved = conventions.halved_products
    x = model.token.weight.detach()[IDS]
    logits = model(IDS).detach()
    torch.testing.assert_close(held.run(x).detach(), logits)
    start = torch.zeros_like(logits)
    start[:, 3, 2] = logits[:, 3, 2]
    (at_tokens,) = oracle.input_times_gradient(held.run, (x,), start)
    explain = fxlrp.compile(model, rules=conventions.preset(), capture=capture)
    found = explain(IDS, target=(3, 2))
    torch.testing.assert_close(found, at_tokens.sum(-1), rtol=1e-8, atol=1e-9)


@pytest.mark.slow
def test_torchs_encoder_with_padding() -> None:
    """nn.TransformerEncoder with a padding mask, on its slow path: what padding holds does not matter."""
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    model = randomize(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x, src_key_padding_mask=PADDED)

    def held_layer(layer: nn.TransformerEncoderLayer, x: Tensor) -> Tensor:
        q, k, v = (
            oracle.split_heads(t, 2)
            for t in F.linear(x, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias).chunk(3, -1)
        )
        weights = oracle.held_matmul(q / 2, k.mT).masked_fill(PADDED[:, None, None], -math.inf).softmax(-1)
        x = x + layer.self_attn.out_proj(oracle.join_heads(oracle.held_matmul(weights, v)))
        x = oracle.held_norm(x, (-1,), layer.norm1.weight, layer.norm1.bias, 1e-5)
        x = x + layer.linear2(layer.linear1(x).relu())
        return oracle.held_norm(x, (-1,), layer.norm2.weight, layer.norm2.bias, 1e-5)

    (expected,) = oracle.input_times_gradient(
        lambda x: held_layer(model.layers[1], held_layer(model.layers[0], x)), (TOKENS,), TOKENS_SEED
    )
    for capture in ("auto", "export"):
        found = explained(Padded(), (TOKENS,), TOKENS_SEED, presets.epsilon(epsilon=0), capture=capture)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_torchs_decoder_layer() -> None:
    """Self-attention under a causal mask, attention to a memory and an MLP; both inputs are explained."""
    layer = randomize(nn.TransformerDecoderLayer(8, 2, 6, batch_first=True))
    memory = random(2, 5, 8, seed=3)

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.layer(x, memory, tgt_mask=FIRST, tgt_is_causal=True)

    def held_attention(module: nn.MultiheadAttention, x: Tensor, memory: Tensor, keep: Tensor | None) -> Tensor:
        w, b = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
        sources = (x, memory, memory)
        q, k, v = (oracle.split_heads(F.linear(t, w[i], b[i]), 2) for i, t in enumerate(sources))
        scores = oracle.held_matmul(q / 2, k.mT)
        scores = scores if keep is None else scores.masked_fill(~keep, -math.inf)
        return module.out_proj(oracle.join_heads(oracle.held_matmul(scores.softmax(-1), v)))

    def surrogate(x: Tensor, memory: Tensor) -> Tensor:
        def norm(x: Tensor, which: nn.LayerNorm) -> Tensor:
            return oracle.held_norm(x, (-1,), which.weight, which.bias, which.eps)

        x = norm(x + held_attention(layer.self_attn, x, x, FIRST == 0), layer.norm1)
        x = norm(x + held_attention(layer.multihead_attn, x, memory, None), layer.norm2)
        return norm(x + layer.linear2(layer.linear1(x).relu()), layer.norm3)

    torch.testing.assert_close(surrogate(TOKENS, memory), layer(TOKENS, memory, tgt_mask=FIRST))
    expected = oracle.input_times_gradient(surrogate, (TOKENS, memory), TOKENS_SEED)
    found = explained(Decoder(), (TOKENS, memory), TOKENS_SEED, presets.epsilon(epsilon=0))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("options", [{"optimize": False}, {"checkpoint": True}], ids=str)
def test_options_of_the_compiler_change_nothing(options: dict[str, Any], convention: str) -> None:
    model = Encoder().eval()
    _, expected = explain_encoder(model, IDS, ENCODER_SEED, CONVENTIONS[convention])
    assert_close(explained(model, (IDS,), ENCODER_SEED, convention, **options), expected)


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_one_explainer_for_other_lengths(capture: Any) -> None:
    """Batch size and length are left open."""
    model = Encoder().eval()
    explain = fxlrp.compile(model, rules="attnlrp", capture=capture, example_inputs=IDS)
    for ids in (IDS, torch.tensor([[2, 4, 0], [1, 1, 5], [3, 3, 3]])):
        short = Encoder().eval()
        short.position.weight = nn.Parameter(model.position.weight[: ids.shape[1]].detach())
        seed = random(len(ids), 3, seed=11)
        _, expected = explain_encoder(short, ids, seed, CONVENTIONS["attnlrp"])
        assert_close(explain(ids, seed=seed), expected)


@pytest.mark.parametrize("epsilon", [0.1, 1e-9])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_epsilon_of_a_preset(convention: str, epsilon: float) -> None:
    """It is that of every sum, product and norm."""
    model, conventions = Encoder().eval(), CONVENTIONS[convention].at(epsilon)
    _, expected = explain_encoder(model, IDS, ENCODER_SEED, conventions)
    torch.testing.assert_close(
        explained(model, (IDS,), ENCODER_SEED, conventions.preset()), expected, rtol=1e-9, atol=1e-10
    )

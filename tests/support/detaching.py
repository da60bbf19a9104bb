"""Transformers in plain PyTorch, and twins of them whose input times gradient is the relevance.

The twin computes the values of the model. What a preset holds constant is detached in it, and where a preset shares
relevance among factors, their gradients are scaled:

* the statistics of norms are detached, and an activation is a multiplication by ``(f(x) / x).detach()``;
* the factors of a gate get half the gradient each (``attnlrp``), or the gate is detached (``epsilon``, ``cplrp``);
* queries and keys get a quarter of the gradient and values a half, or the attention weights are detached (``cplrp``).

It is written from these sentences and always writes attention out, so one twin serves for every way in which the model
writes it. With ``epsilon`` towards zero, relevance by the preset is input times the gradient of the twin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracles import randomize

VOCABULARY, WIDTH, HEADS, KEY_HEADS = 13, 16, 4, 2
SIZE = WIDTH // HEADS
LONGEST, PREFIX = 32, 3

# How the model writes attention. "mha" is nn.MultiheadAttention.
WAYS = ("sdpa", "softmax", "einsum", "eager", "mha")
# Which keys a query sees. "offset": causal behind a prefix of keys and values, as with a cache. "bias": relative
# positions as in T5, and no scale. "no key": boolean, and some queries see no key. "all least": the same by adding the
# least number, where these queries see every key alike.
MASKS = ("none", "causal", "offset", "padding", "additive", "bias", "bias and padding", "no key", "all least")


@dataclass(frozen=True)
class Style:
    """A model: a decoder in the style of Llama, or an encoder in the style of BERT."""

    way: str = "sdpa"
    mask: str = "causal"
    encoder: bool = False
    layers: int = 2
    dtype: torch.dtype = torch.float64

    @property
    def wide(self) -> torch.dtype:
        """At least single precision, in which norms and the softmax of transformers compute."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def key_heads(self) -> int:
        return HEADS if self.encoder else KEY_HEADS

    @property
    def scale(self) -> float:
        return 1.0 if self.biased else 1 / math.sqrt(SIZE)

    @property
    def prefix(self) -> int:
        return PREFIX if self.mask == "offset" else 0

    @property
    def is_possible(self) -> bool:
        """Whether the way can express the mask: nn.MultiheadAttention takes no prefix and no bias for each head."""
        return self.way != "mha" or not (self.prefix or self.biased)

    @property
    def biased(self) -> bool:
        return self.mask.startswith("bias")

    @property
    def boolean(self) -> bool:
        """Whether the mask consists of truth values."""
        return self.mask in ("causal", "offset", "padding", "no key")

    @property
    def takes_keep(self) -> bool:
        """Whether the model has an input that says which tokens there are."""
        return self.mask in ("padding", "additive", "bias and padding", "no key", "all least")


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def repeated(x: Tensor, times: int) -> Tensor:
    """Key heads for every query head, as transformers writes it."""
    batch, heads, length, size = x.shape
    x = x[:, :, None, :, :].expand(batch, heads, times, length, size)
    return x.reshape(batch, heads * times, length, size)


class RMSNorm(nn.Module):
    """By hand, as transformers writes it."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.eps, self.wide = 1e-6, style.wide

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.to(self.wide)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * x.to(dtype)


class Attention(nn.Module):
    """Attention in one of the ways, with rotary embeddings unless it is an encoder's."""

    prefix_keys: Tensor
    prefix_values: Tensor

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style = style
        if style.way == "mha":
            self.mha = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
            return
        width = style.key_heads * SIZE
        self.query = nn.Linear(WIDTH, WIDTH, bias=style.encoder)
        self.key, self.value = (nn.Linear(WIDTH, width, bias=style.encoder) for _ in range(2))
        self.output = nn.Linear(WIDTH, WIDTH, bias=style.encoder)
        if style.prefix:
            self.register_buffer("prefix_keys", torch.zeros(1, style.key_heads, PREFIX, SIZE))
            self.register_buffer("prefix_values", torch.zeros(1, style.key_heads, PREFIX, SIZE))

    def forward(self, x: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        if self.style.way == "mha":
            return self._module(x, mask)
        q, k, v = (layer(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if rotation is not None:
            q, k = rotated(q, *rotation), rotated(k, *rotation)
        if self.style.prefix:
            k = torch.cat([self.prefix_keys.expand(x.shape[0], -1, -1, -1), k], 2)
            v = torch.cat([self.prefix_values.expand(x.shape[0], -1, -1, -1), v], 2)
        mixed = getattr(self, f"_{self.style.way}")(q, k, v, mask)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _module(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The masks of a batch are padding, which the module takes apart."""
        padding = None
        if self.style.takes_keep and mask is not None:
            padding, mask = mask, None
        return self.mha(x, x, x, key_padding_mask=padding, attn_mask=mask, need_weights=False)[0]

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        causal, grouped = self.style.mask == "causal", self.style.key_heads < HEADS
        scale = self.style.scale if self.style.biased else None
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=grouped)

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        groups = HEADS // self.style.key_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return self._weights(q @ k.transpose(-2, -1) * self.style.scale, mask) @ v

    def _einsum(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The query heads of a group share a key head, and nothing is repeated."""
        q = (q * self.style.scale).unflatten(1, (self.style.key_heads, -1))
        if mask is not None and self.style.biased:
            mask = mask.unflatten(1, (self.style.key_heads, -1))
        elif mask is not None and self.style.takes_keep:
            mask = mask.unsqueeze(2)
        weights = self._weights(torch.einsum("bhgqd,bhkd->bhgqk", q, k), mask)
        return torch.einsum("bhgqk,bhkd->bhgqd", weights, v).flatten(1, 2)

    def _eager(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        groups = HEADS // self.style.key_heads
        k, v = repeated(k, groups), repeated(v, groups)
        scores = torch.matmul(q, k.transpose(2, 3)) * self.style.scale
        weights = self._weights(scores.to(self.style.wide), mask).to(q.dtype)
        weights = F.dropout(weights, p=0.1, training=self.training)
        return torch.matmul(weights, v)

    def _weights(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        if mask is not None and self.style.boolean:
            scores = scores.masked_fill(~mask, -math.inf)
        elif mask is not None:
            scores = scores + mask
        weights = F.softmax(scores, dim=-1)
        return weights.nan_to_num(0.0) if self.style.mask == "no key" else weights


class Block(nn.Module):
    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style = style
        self.first, self.second = (norm(style) for _ in range(2))
        self.attention = Attention(style)
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=style.encoder)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=style.encoder)
        if not style.encoder:
            self.gate = nn.Linear(WIDTH, 2 * WIDTH, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.attention(self.first(x), mask, rotation)
        y = self.second(x)
        hidden = F.gelu(self.up(y)) if self.style.encoder else F.silu(self.gate(y)) * self.up(y)
        return x + self.down(hidden)


def norm(style: Style) -> nn.Module:
    if style.encoder:
        return nn.LayerNorm(WIDTH, eps=1e-5)
    return RMSNorm(style) if style.way == "eager" else nn.RMSNorm(WIDTH, eps=1e-6)


class Transformer(nn.Module):
    """A language model, ``(batch, length)`` tokens to ``(batch, length, vocabulary)`` logits."""

    frequencies: Tensor

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style = style
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        if style.encoder:
            self.position = nn.Embedding(LONGEST, WIDTH)
        if style.biased:
            self.relative = nn.Embedding(2 * LONGEST, HEADS)
        self.blocks = nn.ModuleList(Block(style) for _ in range(style.layers))
        self.norm = norm(style)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("frequencies", 1 / 100 ** (torch.arange(0, SIZE, 2) / SIZE))

    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.embedding(ids)
        if self.style.encoder:
            x = x + self.position(positions)
        rotation = None if self.style.encoder else self.rotation(positions)
        mask = self.mask(positions, keep)
        for block in self.blocks:
            x = block(x, mask, rotation)
        return self.head(self.norm(x))

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[:, None] * self.frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    def mask(self, positions: Tensor, keep: Tensor | None) -> Tensor | None:
        """The mask as the way of writing attention takes it."""
        kind, dtype = self.style.mask, self.style.dtype
        if kind == "none" or (kind == "causal" and self.style.way == "sdpa"):
            return None
        if self.style.way == "mha" and keep is not None:
            return ~keep if kind in ("padding", "no key") else (1 - keep.to(dtype)) * torch.finfo(dtype).min
        causal = positions[:, None] >= positions
        if kind in ("causal", "offset"):
            allowed = F.pad(causal, (self.style.prefix, 0), value=True) if self.style.prefix else causal
            return ~allowed if self.style.way == "mha" else allowed
        if kind == "bias":
            return self.bias(positions)
        assert keep is not None
        if kind == "padding":
            return keep[:, None, None, :]
        if kind == "no key":
            return keep[:, None, None, :] & causal
        if kind == "all least":
            return (1 - (keep[:, None, None, :] & causal).to(dtype)) * torch.finfo(dtype).min
        padding = (1 - keep[:, None, None, :].to(dtype)) * torch.finfo(dtype).min
        return padding if kind == "additive" else self.bias(positions) + padding

    def bias(self, positions: Tensor) -> Tensor:
        return self.relative(positions - positions[:, None] + LONGEST).permute(2, 0, 1).unsqueeze(0)


def made(style: Style, seed: int = 0) -> Transformer:
    """A model with random weights, none of them special."""
    model = randomize(Transformer(style), seed)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "prefix" in name:
                buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(seed + len(name))))
    return model.to(style.dtype).eval()


def inputs_of(style: Style, length: int = 6, batch: int = 2) -> tuple[Tensor, ...]:
    """Tokens, and which of them there are: the first sample is padded in front, the second behind."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(VOCABULARY, (batch, length), generator=generator)
    if not style.takes_keep:
        return (ids,)
    keep = torch.ones(batch, length, dtype=torch.bool)
    keep[0, :2] = False
    keep[1:, -1:] = False
    if style.mask in ("no key", "all least") and style.way == "mha":
        keep[0] = False
    return ids, keep


# The twin


def scaled(x: Tensor, share: float) -> Tensor:
    """``x``, with that share of its gradient."""
    return x.detach() + share * (x - x.detach())


def multiplied(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An elementwise function as a multiplication by a constant."""
    return x * (function(x) / x).detach()


def frozen_norm(layer: nn.Module, x: Tensor) -> Tensor:
    """A norm whose statistic is a constant."""
    if isinstance(layer, nn.LayerNorm):
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + layer.eps).detach() * layer.weight + (
            layer.bias
        )
    assert isinstance(layer, RMSNorm | nn.RMSNorm)
    assert layer.eps is not None
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + layer.eps).detach() * layer.weight


def softmax(scores: Tensor) -> Tensor:
    """Along the keys; all zeros where every score is minus infinity."""
    largest = scores.detach().amax(-1, keepdim=True)
    powers = (scores - largest.clamp(min=torch.finfo(scores.dtype).min)).exp()
    total = powers.sum(-1, keepdim=True)
    return powers / torch.where(total == 0, torch.ones_like(total), total)


def mixed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, preset: str) -> Tensor:
    """Attention; the mask is added."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    if preset == "cplrp":
        return softmax(masked(scale * q @ k.mT, mask)).detach() @ v
    return softmax(masked(scale * scaled(q, 0.25) @ scaled(k, 0.25).mT, mask)) @ scaled(v, 0.5)


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    """The sum with a mask; scores that are rounded off beside the least number do not take part in it."""
    return torch.where(mask == torch.finfo(mask.dtype).min, mask, scores + mask)


def added_mask(model: Transformer, length: int, keep: Tensor | None) -> Tensor:
    """What is added to the scores, as ``(batch or 1, heads or 1, queries, keys)``; from the words of `MASKS`."""
    style = model.style
    dtype = style.dtype
    mask = torch.zeros(1, HEADS, length, style.prefix + length, dtype=dtype)
    seen = torch.ones(1, 1, length, style.prefix + length, dtype=torch.bool)
    as_module = style.way == "mha"
    if style.mask in ("causal", "offset") or (style.mask in ("no key", "all least") and not as_module):
        seen = seen.tril(style.prefix)
    if keep is not None:
        seen = seen & keep[:, None, None, :]
    if style.biased:
        for query in range(length):
            for key in range(length):
                mask[0, :, query, key] = model.relative.weight.detach()[key - query + LONGEST]
    hidden = torch.finfo(dtype).min if style.mask in ("additive", "bias and padding", "all least") else -math.inf
    return mask + torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, hidden)


def twin_attention(layer: Attention, x: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor], preset: str) -> Tensor:
    style = layer.style
    if style.way == "mha":
        weights, biases = layer.mha.in_proj_weight.chunk(3), layer.mha.in_proj_bias.chunk(3)
        projected = [F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        output: nn.Linear = layer.mha.out_proj
    else:
        projected = [each(x) for each in (layer.query, layer.key, layer.value)]
        output = layer.output
    q, k, v = (t.unflatten(-1, (-1, SIZE)).transpose(1, 2) for t in projected)
    if not style.encoder:
        q, k = rotated(q, *rotation), rotated(k, *rotation)
    if style.prefix:
        k, v = (
            torch.cat([prefix.expand(len(x), -1, -1, -1), t], 2)
            for prefix, t in ((layer.prefix_keys, k), (layer.prefix_values, v))
        )
    out: Tensor = output(mixed(q, k, v, mask, style.scale, preset).transpose(1, 2).flatten(2))
    return out


def twin(model: Transformer, embedded: Tensor, keep: Tensor | None, preset: str) -> Tensor:
    """The logits of the model from the embeddings of the tokens, for a gradient that is the preset's relevance."""
    x, length = embedded, embedded.shape[1]
    if model.style.encoder:
        x = x + model.position.weight[:length]
    mask, rotation = added_mask(model, length, keep), model.rotation(torch.arange(length))
    for block in model.blocks:
        assert isinstance(block, Block)
        x = x + twin_attention(block.attention, frozen_norm(block.first, x), mask, rotation, preset)
        y = frozen_norm(block.second, x)
        if model.style.encoder:
            hidden = multiplied(F.gelu, block.up(y))
        else:
            gate, signal = multiplied(F.silu, block.gate(y)), block.up(y)
            halved = preset == "attnlrp"
            hidden = scaled(gate, 0.5) * scaled(signal, 0.5) if halved else gate.detach() * signal
        x = x + block.down(hidden)
    logits: Tensor = model.head(frozen_norm(model.norm, x))
    return logits


def relevance_of(
    model: Transformer, ids: Tensor, keep: Tensor | None, seed: Tensor | Callable[[Tensor], Tensor], preset: str
) -> Tensor:
    """The relevance of every feature of every token, ``(batch, length, width)``, if the twin computes the same."""
    embedded = model.embedding(ids).detach().requires_grad_()
    logits = twin(model, embedded, keep, preset)
    inputs = (ids,) if keep is None else (ids, keep)
    torch.testing.assert_close(logits, model(*inputs), rtol=1e-9, atol=1e-9)
    relevance = seed if isinstance(seed, Tensor) else seed(logits.detach())
    (gradient,) = torch.autograd.grad(logits, embedded, relevance / logits.detach())
    return (embedded * gradient).detach()

"""The transformers under test: a language model, an encoder and torchvision's vision transformer, by their length.

Each explains its embeddings or its image, which :meth:`Sequence.embedded` returns, so that every contestant starts
from the same tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import models
from benchmarks.settings import Settings

WIDTH, HEADS, KEY_HEADS, HIDDEN, VOCABULARY, LONGEST = 512, 8, 4, 1408, 8192, 16384
SIZE = WIDTH // HEADS
PATCH = 16


class RMSNorm(nn.Module):
    """By hand and in single precision, as in Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.variance_epsilon = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.float()
        normed: Tensor = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)).to(
            dtype
        )
        return normed


class GatedMLP(nn.Module):
    """That of Llama."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return down


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Fused attention; causal without a mask."""
    grouped = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, enable_gqa=grouped)


class Attention(nn.Module):
    """Self-attention by a function that a peer can replace, with rotary embeddings where it gets them."""

    def __init__(self, key_heads: int, bias: bool) -> None:
        super().__init__()
        self.query, self.output = (nn.Linear(WIDTH, WIDTH, bias=bias) for _ in range(2))
        self.key, self.value = (nn.Linear(WIDTH, key_heads * SIZE, bias=bias) for _ in range(2))
        self.attend: Callable[..., Tensor] = attend

    def forward(self, x: Tensor, mask: Tensor | None = None, rotation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        projected = [layer(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        q, k, v = projected
        if rotation is not None:
            q, k = _rotated(q, *rotation), _rotated(k, *rotation)
        mixed: Tensor = self.output(self.attend(self, q, k, v, mask).transpose(1, 2).flatten(2))
        return mixed


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class DecoderLayer(nn.Module):
    """Norms before attention and MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = RMSNorm(), RMSNorm()
        self.attention, self.mlp = Attention(KEY_HEADS, bias=False), GatedMLP()

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attention(self.norm_1(x), rotation=rotation)
        added: Tensor = x + self.mlp(self.norm_2(x))
        return added


class LanguageModel(nn.Module):
    """A causal language model in the style of Llama: ``(batch, length)`` tokens to logits for every position."""

    frequencies: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(layers))
        self.norm = RMSNorm()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("frequencies", 1 / 10000 ** (torch.arange(0, SIZE, 2) / SIZE))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.from_embedded(self.embedding(ids))
        return logits

    def from_embedded(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.frequencies
        angles = torch.cat([angles, angles], -1)
        rotation = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, rotation)
        logits: Tensor = self.head(self.norm(x))
        return logits


class EncoderLayer(nn.Module):
    """Norms behind attention and MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH, eps=1e-12), nn.LayerNorm(WIDTH, eps=1e-12)
        self.attention = Attention(HEADS, bias=True)
        self.up, self.act_fn, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.norm_1(x + self.attention(x, mask))
        normed: Tensor = self.norm_2(x + self.down(self.act_fn(self.up(x))))
        return normed


class Encoder(nn.Module):
    """A classifier of sentences in the style of BERT, with a padding mask."""

    def __init__(self, layers: int, classes: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(LONGEST, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(EncoderLayer() for _ in range(layers))
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
        return self.from_embedded(self.embedding(ids), keep)

    def from_embedded(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.norm(x + self.position(torch.arange(x.shape[1], device=x.device)))
        mask = keep[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        logits: Tensor = self.head(x[:, 0])
        return logits


@dataclass(frozen=True)
class Sequence:
    """A model with its inputs, of which the first is explained."""

    model: nn.Module
    inputs: tuple[Tensor, ...]

    @property
    def is_language_model(self) -> bool:
        return isinstance(self.model, LanguageModel)

    def embedded(self) -> Tensor:
        """The embeddings of the tokens, or the image."""
        embedding = getattr(self.model, "embedding", None)
        return self.inputs[0].detach() if embedding is None else embedding(self.inputs[0]).detach()

    def explained(self, x: Tensor, model: nn.Module | None = None) -> Tensor:
        """The logits to explain, from :meth:`embedded`: of a language model those of the last position."""
        model = self.model if model is None else model
        logits: Tensor = getattr(model, "from_embedded", model)(x, *self.inputs[1:])
        return logits[:, -1] if self.is_language_model else logits


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "language_model": lambda: LanguageModel(4),
    "language_model_16": lambda: LanguageModel(16),
    "encoder": lambda: Encoder(4),
    "tiny_language_model": lambda: LanguageModel(1),
}


def build(name: str, batch: int, length: int, settings: Settings) -> Sequence:
    """The model with inputs of a length, in tokens; that of a vision transformer is the number of its patches."""
    torch.manual_seed(settings.seed)
    if name.startswith("vit"):
        size = PATCH * round(length**0.5)
        return Sequence(models.build(name, size, settings), (models.images(batch, size, settings),))
    model = MODELS[name]().requires_grad_(False).eval().to(settings.device, settings.torch_dtype)
    _initialize(model)
    ids = torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(length))
    inputs: list[Any] = [ids]
    if name == "encoder":
        lengths = torch.linspace(length / 2, length, batch).round()
        inputs.append(torch.arange(length) < lengths[:, None])
    return Sequence(model, tuple(t.to(settings.device) for t in inputs))


@torch.no_grad()
def _initialize(model: nn.Module) -> None:
    """Weights of the size that trained ones have, so that attention is neither even nor at one token."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(std=0.5)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(std=module.in_features**-0.5)

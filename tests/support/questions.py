"""Nets that questions are asked of, and LRP-0 at places inside them by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo


class Skips(nn.Module):
    """Two blocks with a skip connection around each; one activation is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1))
        self.last = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.block(x))
        x = F.relu(x - self.last(x))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class LanguageModel(nn.Module):
    """A causal language model: two blocks of attention and a gated MLP, and a head."""

    def __init__(self, tokens: int = 11, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(tokens, width), nn.Parameter(torch.randn(1, 32, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.positions[:, : ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


class Bert(nn.Module):
    """An encoder in the manner of BERT: norms behind the sums, a padding mask, and a head on the first token."""

    def __init__(self, tokens: int = 11, width: int = 12, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(tokens, width), nn.Embedding(32, width)
        self.norm, self.layers = nn.LayerNorm(width), nn.ModuleList(_Layer(width, heads) for _ in range(3))
        self.pool, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, ids: Tensor, visible: Tensor) -> Tensor:
        x = self.norm(self.embed(ids) + self.positions(torch.arange(ids.shape[1])))
        for layer in self.layers:
            x = layer(x, visible[:, None, None])
        out: Tensor = self.head(torch.tanh(self.pool(x[:, 0])))
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            layer(x).view(batch, length, self.heads, -1).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        x = self.norm1(x + self.out(attended.transpose(1, 2).reshape(batch, length, width)))
        changed: Tensor = self.norm2(x + self.down(F.gelu(self.up(x))))
        return changed


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 12), nn.Linear(width, 12), nn.Linear(12, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        y = self.norm2(x)
        changed: Tensor = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return changed


def skips() -> Skips:
    return zoo.initialise(Skips().double())


def language_model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel().double().eval()


def bert() -> Bert:
    torch.manual_seed(0)
    return Bert().double().eval()


def lrp0_under(
    model: nn.Module, x: Tensor, target: int, kept: Mapping[nn.Module, Callable[[Tensor], Tensor]]
) -> Tensor:
    """LRP-0 of the input by autograd, with a function of the gradient at the outputs of modules."""

    def hook(keep: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def change(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            changed: Tensor = _Kept.apply(out, keep)  # type: ignore[no-untyped-call]
            return changed

        return change

    handles = [module.register_forward_hook(hook(keep)) for module, keep in kept.items()]
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, target].sum(), x)
    for handle in handles:
        handle.remove()
    return (x * gradient).detach()


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, keep):  # type: ignore[no-untyped-def]
        ctx.keep = keep
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return ctx.keep(gradient), None


def channels(*chosen: int) -> Callable[[Tensor], Tensor]:
    """Keeps the channels of a gradient, dimension 1."""

    def keep(gradient: Tensor) -> Tensor:
        kept = torch.zeros_like(gradient)
        kept[:, list(chosen)] = gradient[:, list(chosen)]
        return kept

    return keep

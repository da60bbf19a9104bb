"""Relevance of attention, normalization and recurrence, written from the formulas and from nothing else.

Every function returns its value and what takes the relevance of the value to the relevance of its operands, so that
a model is explained by writing it down twice: forwards, and then backwards. There is a second source for each formula:

* `by_jacobian` expands a map that is linear once its statistic or its attention weights are held constant to a dense
  matrix J, and is `x * J^T(R / s(z))`;
* at epsilon = 0 all of the rules together are input times gradient of a surrogate that computes the same values, with
  what the rules hold constant detached (`held_matmul`, `passed`, `held_norm`, `held_product`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp import presets
from fxlrp.rules.preset import Preset
from oracles import EPSILON, stabilize

Back = Callable[[Tensor], Tensor]
Backs = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Conventions:
    """What the three presets for transformers agree and differ in."""

    epsilon: float = EPSILON
    constant_attention: bool = False
    halved_products: bool = False

    def preset(self) -> Preset:
        if self.constant_attention:
            return presets.cplrp(epsilon=self.epsilon)
        return (presets.attnlrp if self.halved_products else presets.epsilon)(epsilon=self.epsilon)

    def at(self, epsilon: float) -> Conventions:
        return replace(self, epsilon=epsilon)


CONVENTIONS = {
    "epsilon": Conventions(),
    "attnlrp": Conventions(halved_products=True),
    "cplrp": Conventions(constant_attention=True),
}


def by_jacobian(function: Callable[[Tensor], Tensor], x: Tensor, relevance: Tensor, epsilon: float = EPSILON) -> Tensor:
    """x * J^T(R / s(z)) with J the dense Jacobian of a function that is affine in x."""
    z = function(x).detach()
    matrix = torch.autograd.functional.jacobian(function, x.detach())
    assert isinstance(matrix, Tensor)
    ratio = (relevance / stabilize(z, epsilon)).reshape(-1)
    return x * (ratio @ matrix.reshape(z.numel(), x.numel())).reshape(x.shape)


def summed_to(t: Tensor, shape: Sequence[int]) -> Tensor:
    """Broadcasting undone: dimensions that were added or stretched are summed."""
    while t.dim() > len(shape):
        t = t.sum(0)
    for i, n in enumerate(shape):
        if n == 1:
            t = t.sum(i, keepdim=True)
    return t


# Values with the way back


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float = EPSILON) -> tuple[Tensor, Back]:
    """R_x = x * W^T(R / s(z)), z with its bias."""
    z = x @ weight.T + (0.0 if bias is None else bias)
    return z, lambda relevance: x * ((relevance / stabilize(z, epsilon)) @ weight)


def add(a: Tensor, b: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, Backs]:
    """R_a = a R / s(a + b)."""
    c = a + b

    def back(relevance: Tensor) -> tuple[Tensor, ...]:
        ratio = relevance / stabilize(c, epsilon)
        return summed_to(a * ratio, a.shape), summed_to(b * ratio, b.shape)

    return c, back


def matmul(a: Tensor, b: Tensor, epsilon: float = EPSILON, shares: int = 2) -> tuple[Tensor, Backs]:
    """R_A = A * ((R / s(n O)) B^T), R_B = B * (A^T (R / s(n O))) for n factors that depend on the input."""
    product = a @ b

    def back(relevance: Tensor) -> tuple[Tensor, ...]:
        ratio = relevance / stabilize(shares * product, epsilon)
        return summed_to(a * (ratio @ b.mT), a.shape), summed_to(b * (a.mT @ ratio), b.shape)

    return product, back


def softmax(x: Tensor, dim: int = -1) -> tuple[Tensor, Back]:
    """R_x = x * (R - y sum R), 0 where x is -inf; a row that is -inf throughout counts as a row of zeros."""
    y = torch.softmax(x, dim).nan_to_num(0.0)

    def back(relevance: Tensor) -> Tensor:
        inside = relevance - y * relevance.sum(dim, keepdim=True)
        return torch.where(x.isinf(), torch.zeros_like(x), x) * torch.where(x.isinf(), torch.zeros_like(x), inside)

    return y, back


def standardize(
    x: Tensor,
    dims: Sequence[int],
    weight: Tensor | float,
    bias: Tensor | float,
    constant: float,
    epsilon: float = EPSILON,
    centred: bool = True,
) -> tuple[Tensor, Back]:
    """y = (x - m) / sigma w + b with sigma constant: R_x = x * (t - mean t) with t = w R / (sigma s(y))."""
    dims = tuple(dims)
    mean = x.mean(dims, keepdim=True) if centred else torch.zeros_like(x)
    sigma = ((x - mean).square().mean(dims, keepdim=True) + constant).sqrt()
    y = (x - mean) / sigma * weight + bias

    def back(relevance: Tensor) -> Tensor:
        t = weight * relevance / stabilize(y, epsilon) / sigma
        return x * (t - t.mean(dims, keepdim=True)) if centred else x * t

    return y, back


def layer_norm(x: Tensor, norm: nn.LayerNorm, epsilon: float = EPSILON) -> tuple[Tensor, Back]:
    dims = range(-len(norm.normalized_shape), 0)
    weight = 1.0 if norm.weight is None else norm.weight.detach()
    bias = 0.0 if norm.bias is None else norm.bias.detach()
    return standardize(x, dims, weight, bias, norm.eps, epsilon)


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, constant: float, epsilon: float = EPSILON
) -> tuple[Tensor, Back]:
    """Channels in groups; one group for each channel is instance norm."""
    shape = (len(x), groups, x.shape[1] // groups, *x.shape[2:])
    per_channel = (1, groups, x.shape[1] // groups, *(1 for _ in x.shape[2:]))
    y, back = standardize(
        x.reshape(shape),
        range(2, len(shape)),
        weight.reshape(per_channel),
        bias.reshape(per_channel),
        constant,
        epsilon,
    )
    return y.reshape(x.shape), lambda relevance: back(relevance.reshape(shape)).reshape(x.shape)


def gated(
    signal: Tensor, gate: Tensor, activation: Callable[[Tensor], Tensor], conventions: Conventions
) -> tuple[Tensor, Backs]:
    """signal * activation(gate): all to the signal, or half each."""
    share = 0.5 if conventions.halved_products else 0.0
    return signal * activation(gate), lambda relevance: ((1 - share) * relevance, share * relevance)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    conventions: Conventions,
    *,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Backs]:
    """softmax((q scale) k^T, -inf where not `keep`, + bias) v; fewer key heads than query heads are repeated.

    Only the product of weights and values has a stabilizer.
    """
    epsilon, heads = conventions.epsilon, (q.shape[-3] // k.shape[-3] if q.dim() > 3 else 1)
    keys, values = k.repeat_interleave(heads, -3), v.repeat_interleave(heads, -3)
    scaled = q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores, scores_back = matmul(scaled, keys.mT, 0.0)
    masked = scores if keep is None else scores.masked_fill(~keep, -math.inf)
    if bias is not None:
        masked = masked + bias
    weights, weights_back = softmax(masked)
    out, out_back = matmul(weights, values, epsilon, shares=1 if conventions.constant_attention else 2)

    def unrepeated(t: Tensor) -> Tensor:
        return t.unflatten(-3, (-1, heads)).sum(-3) if heads > 1 else t

    def back(relevance: Tensor) -> tuple[Tensor, ...]:
        at_weights, at_values = out_back(relevance)
        if conventions.constant_attention:
            return torch.zeros_like(q), torch.zeros_like(k), unrepeated(at_values)
        at_scores = weights_back(at_weights)
        if bias is not None:
            at_scores = scores * at_scores / stabilize(scores + bias, 0.0)
        at_queries, at_keys = scores_back(at_scores)
        return at_queries, unrepeated(at_keys.mT), unrepeated(at_values)

    return out, back


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., L, E) as (..., H, L, E / H)."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def join_heads(x: Tensor) -> Tensor:
    return x.transpose(-3, -2).flatten(-2)


def multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    module: nn.MultiheadAttention,
    conventions: Conventions,
    *,
    keep: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Backs]:
    """nn.MultiheadAttention on batches first, from its weights."""
    w_q, w_k, w_v = module.in_proj_weight.detach().chunk(3)
    b_q, b_k, b_v = (None,) * 3 if module.in_proj_bias is None else module.in_proj_bias.detach().chunk(3)
    epsilon, heads = conventions.epsilon, module.num_heads
    q, q_back = linear(query, w_q, b_q, epsilon)
    k, k_back = linear(key, w_k, b_k, epsilon)
    v, v_back = linear(value, w_v, b_v, epsilon)
    mixed, mixed_back = attention(
        split_heads(q, heads), split_heads(k, heads), split_heads(v, heads), conventions, keep=keep, bias=bias
    )
    out_bias = None if module.out_proj.bias is None else module.out_proj.bias.detach()
    out, out_back = linear(join_heads(mixed), module.out_proj.weight.detach(), out_bias, epsilon)

    def back(relevance: Tensor) -> tuple[Tensor, ...]:
        at_q, at_k, at_v = mixed_back(split_heads(out_back(relevance), heads))
        return q_back(join_heads(at_q)), k_back(join_heads(at_k)), v_back(join_heads(at_v))

    return out, back


# Recurrent layers (Arras et al. 2019), one layer and one direction; x: (T, B, D), states: (B, H)


def lstm(x: Tensor, h: Tensor, c: Tensor, w: dict[str, Tensor], epsilon: float = EPSILON) -> tuple[Any, Any]:
    """c' = f c + i tanh(g), h' = o tanh(c'), projected or not; gates are weights."""
    steps, outputs = [], []
    for x_t in x:
        z = x_t @ w["ih"].T + h @ w["hh"].T + w["bias"]
        z_i, z_f, z_g, z_o = z.chunk(4, dim=-1)
        kept, new = z_f.sigmoid() * c, z_i.sigmoid() * z_g.tanh()
        hidden = z_o.sigmoid() * (kept + new).tanh()
        out = hidden @ w["hr"].T if "hr" in w else hidden
        steps.append((x_t, h, z_g, kept, new, hidden, out))
        h, c = out, kept + new
        outputs.append(out)
    w_g, u_g = w["ih"].chunk(4)[2], w["hh"].chunk(4)[2]

    def back(at_out: Tensor, at_h: Tensor, at_c: Tensor) -> tuple[Tensor, ...]:
        at_x = []
        for t in reversed(range(len(steps))):
            x_t, h_t, z_g, kept, new, hidden, out = steps[t]
            at_h = at_h + at_out[t]
            if "hr" in w:
                at_h = hidden * ((at_h / stabilize(out, epsilon)) @ w["hr"])
            ratio = (at_c + at_h) / stabilize(kept + new, epsilon)
            at_c, at_g = kept * ratio, new * ratio
            at_x.append(x_t * ((at_g / stabilize(z_g, epsilon)) @ w_g))
            at_h = h_t * ((at_g / stabilize(z_g, epsilon)) @ u_g)
        return torch.stack(at_x[::-1]), at_h, at_c

    return (torch.stack(outputs), h, c), back


def gru(x: Tensor, h: Tensor, w: dict[str, Tensor], epsilon: float = EPSILON) -> tuple[Any, Any]:
    """h' = (1 - z) n + z h, n = tanh(W x + b + r (U h + b')); gates are weights."""
    steps, outputs = [], []
    for x_t in x:
        x_r, x_z, x_n = (x_t @ w["ih"].T + w["b_ih"]).chunk(3, dim=-1)
        h_r, h_z, h_n = (h @ w["hh"].T + w["b_hh"]).chunk(3, dim=-1)
        r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
        p = x_n + r * h_n
        new, kept = (1 - z) * p.tanh(), z * h
        steps.append((x_t, h, r, p, new, kept))
        h = new + kept
        outputs.append(h)
    w_n, u_n = w["ih"].chunk(3)[2], w["hh"].chunk(3)[2]

    def back(at_out: Tensor, at_h: Tensor) -> tuple[Tensor, ...]:
        at_x = []
        for t in reversed(range(len(steps))):
            x_t, h_t, r, p, new, kept = steps[t]
            ratio = (at_h + at_out[t]) / stabilize(new + kept, epsilon)
            at_p = new * ratio / stabilize(p, epsilon)
            at_x.append(x_t * (at_p @ w_n))
            at_h = kept * ratio + h_t * ((r * at_p) @ u_n)
        return torch.stack(at_x[::-1]), at_h

    return (torch.stack(outputs), h), back


def rnn(
    x: Tensor, h: Tensor, w: dict[str, Tensor], activation: Callable[[Tensor], Tensor], epsilon: float = EPSILON
) -> tuple[Any, Any]:
    """h' = activation(W x + U h + b): the epsilon rule on the preactivation."""
    steps, outputs = [], []
    for x_t in x:
        z = x_t @ w["ih"].T + h @ w["hh"].T + w["bias"]
        steps.append((x_t, h, z))
        h = activation(z)
        outputs.append(h)

    def back(at_out: Tensor, at_h: Tensor) -> tuple[Tensor, ...]:
        at_x = []
        for t in reversed(range(len(steps))):
            x_t, h_t, z = steps[t]
            ratio = (at_h + at_out[t]) / stabilize(z, epsilon)
            at_x.append(x_t * (ratio @ w["ih"]))
            at_h = h_t * (ratio @ w["hh"])
        return torch.stack(at_x[::-1]), at_h

    return (torch.stack(outputs), h), back


def weights_of(module: nn.RNNBase, suffix: str) -> dict[str, Tensor]:
    """The weights of one layer and direction; absent biases are zeros."""
    ih, hh = (getattr(module, f"weight_{name}_{suffix}").detach() for name in ("ih", "hh"))
    zeros = torch.zeros(len(ih), dtype=ih.dtype)
    b_ih, b_hh = (getattr(module, f"bias_{name}_{suffix}").detach() if module.bias else zeros for name in ("ih", "hh"))
    found = {"ih": ih, "hh": hh, "b_ih": b_ih, "b_hh": b_hh, "bias": b_ih + b_hh}
    if module.proj_size:
        found["hr"] = getattr(module, f"weight_hr_{suffix}").detach()
    return found


def recurrent(
    module: nn.RNNBase, x: Tensor, states: tuple[Tensor, ...] | None = None, epsilon: float = EPSILON
) -> tuple[Any, Any]:
    """A whole nn.LSTM, nn.GRU or nn.RNN on x: (T, B, D).

    Returns (output, last states) and a function from their relevance to that of (x, initial states).
    """
    directions = 2 if module.bidirectional else 1
    rows, is_lstm = module.num_layers * directions, isinstance(module, nn.LSTM)
    width = module.proj_size or module.hidden_size
    if states is None:
        shapes = [width, module.hidden_size] if is_lstm else [width]
        states = tuple(torch.zeros(rows, x.shape[1], n, dtype=x.dtype) for n in shapes)
    current, backs, last = x, [], []
    for layer in range(module.num_layers):
        outputs, layer_backs = [], []
        for direction in range(directions):
            w = weights_of(module, f"l{layer}" + ("_reverse" if direction else ""))
            start = [state[layer * directions + direction] for state in states]
            sequence = current.flip(0) if direction else current
            if is_lstm:
                (out, *ends), back = lstm(sequence, start[0], start[1], w, epsilon)
            elif isinstance(module, nn.GRU):
                (out, *ends), back = gru(sequence, start[0], w, epsilon)
            else:
                (out, *ends), back = rnn(sequence, start[0], w, getattr(torch, str(module.nonlinearity)), epsilon)
            outputs.append(out.flip(0) if direction else out)
            layer_backs.append(back)
            last.append(ends)
        current = torch.cat(outputs, dim=-1)
        backs.append(layer_backs)
    ends = tuple(torch.stack(each) for each in zip(*last, strict=True))

    def back_through_layers(at_output: Tensor, at_ends: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        starts: list[Any] = [None] * rows
        for layer in reversed(range(module.num_layers)):
            at_input: Any = 0.0
            for direction, part in enumerate(at_output.chunk(directions, dim=-1)):
                row = layer * directions + direction
                part = part.flip(0) if direction else part
                at_x, *starts[row] = backs[layer][direction](part, *(end[row] for end in at_ends))
                at_input = at_input + (at_x.flip(0) if direction else at_x)
            at_output = at_input
        return at_output, tuple(torch.stack(each) for each in zip(*starts, strict=True))

    return (current, ends), back_through_layers


# The surrogate: the same values, and input times gradient is the relevance at epsilon = 0


def passed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """An activation as a multiplication by what it happened to multiply by."""
    return x * (function(x) / x).detach()


def held_matmul(a: Tensor, b: Tensor, constant_first: bool = False) -> Tensor:
    """Half to each factor, or all to the second."""
    return a.detach() @ b if constant_first else (a @ b.detach() + a.detach() @ b) / 2


def held_product(signal: Tensor, gate: Tensor, halved: bool) -> Tensor:
    return (signal * gate.detach() + signal.detach() * gate) / 2 if halved else signal * gate.detach()


def held_norm(x: Tensor, dims: Sequence[int], weight: Tensor | float, bias: Tensor | float, constant: float) -> Tensor:
    """Layer norm with its sigma detached."""
    centred = x - x.mean(tuple(dims), keepdim=True)
    return centred / (centred.square().mean(tuple(dims), keepdim=True) + constant).sqrt().detach() * weight + bias


def input_times_gradient(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], relevance: Tensor
) -> tuple[Tensor, ...]:
    """The relevance at epsilon = 0 of a surrogate that computes `function`: R = C z, with C its gradient."""
    leaves = [t.detach().clone().requires_grad_(True) for t in inputs]
    out = function(*leaves)
    gradients = torch.autograd.grad(out, leaves, relevance / out.detach(), allow_unused=True)
    return tuple(torch.zeros_like(t) if g is None else t * g for t, g in zip(inputs, gradients, strict=True))

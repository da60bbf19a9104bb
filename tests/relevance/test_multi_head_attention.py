"""nn.MultiheadAttention against its closed form, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import transformer_oracles as oracle
from helpers import FRONT_ENDS, assert_close, explained
from oracles import random, randomize, stabilize
from transformer_oracles import CONVENTIONS
from transformer_parts import FIRST, PADDED, TOKENS, TOKENS_SEED, by_hand, multi_head, self_attention

PLAIN = CONVENTIONS["epsilon"]


class SelfAttention(nn.Module):
    """nn.MultiheadAttention on one tensor, as encoders call it."""

    def __init__(self, module: nn.Module, **options: Any) -> None:
        super().__init__()
        self.module = module
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, x, x, **self.options)[0]


class CrossAttention(SelfAttention):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # type: ignore[override]
        return self.module(query, key, value, **self.options)[0]


class WrittenOut(nn.Module):
    """The same with a linear layer for q, k and v, the fused function or products, and a linear layer."""

    def __init__(self, module: nn.MultiheadAttention, fused: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.fused = nn.Linear(8, 24), nn.Linear(8, 8), module.num_heads, fused
        self.double()
        self.qkv.load_state_dict({"weight": module.in_proj_weight, "bias": module.in_proj_bias})
        self.out.load_state_dict(module.out_proj.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, 8 // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v) if self.fused else by_hand(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(b, n, 8))


FORBIDDEN = torch.tensor([[False, True, True, True], [False, False, True, True], [False] * 3 + [True], [False] * 4])
ADDED = random(4, 4, seed=9)

# options of the module; what the oracle is told
MULTI_HEAD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "padding": ({"key_padding_mask": PADDED}, {"keep": ~PADDED[:, None, None]}),
    "bool mask": ({"attn_mask": FORBIDDEN}, {"keep": ~FORBIDDEN}),
    "bool mask for each head": (
        {"attn_mask": FORBIDDEN.expand(4, 4, 4)},
        {"keep": ~FORBIDDEN},
    ),
    "float mask": ({"attn_mask": ADDED}, {"bias": ADDED}),
    "causal": ({"attn_mask": FIRST, "is_causal": True}, {"keep": FIRST == 0}),
    "both": (
        {"attn_mask": FORBIDDEN, "key_padding_mask": PADDED},
        {"keep": ~(FORBIDDEN | PADDED[:, None, None])},
    ),
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", MULTI_HEAD)
def test_multi_head_attention(name: str, need_weights: bool) -> None:
    """LRP-0 here: torch turns bool masks into sums with 0 and -inf, whose stabilizer is not in the formula."""
    options, told = MULTI_HEAD[name]
    module, conventions = multi_head(), PLAIN.at(0.0)
    model = SelfAttention(module, need_weights=need_weights, **options)
    out, expected = self_attention(TOKENS, TOKENS_SEED, module, conventions, **told)
    torch.testing.assert_close(out, model(TOKENS).detach())
    found = explained(model, (TOKENS,), TOKENS_SEED, conventions.preset())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_multi_head_attention_with_the_stabilizer(bias: bool, need_weights: bool, convention: str) -> None:
    module = multi_head(bias=bias)
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, CONVENTIONS[convention])
    found = explained(SelfAttention(module, need_weights=need_weights), (TOKENS,), TOKENS_SEED, convention)
    assert_close(found, expected)


@pytest.mark.parametrize("name", ["padding", "bool mask"])
def test_multi_head_attention_with_a_mask_and_the_stabilizer(name: str) -> None:
    """Masked positions get 0, and a bool mask has no other effect."""
    options, told = MULTI_HEAD[name]
    module = multi_head()
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN, **told)
    assert_close(explained(SelfAttention(module, need_weights=False, **options), (TOKENS,), TOKENS_SEED), expected)


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("fused", [True, False])
def test_multi_head_attention_is_its_written_out_form(fused: bool, capture: str) -> None:
    module = multi_head()
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN)
    assert_close(explained(WrittenOut(module, fused), (TOKENS,), TOKENS_SEED, capture=capture), expected)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention_through_export(need_weights: bool) -> None:
    module = multi_head()
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN)
    model = SelfAttention(module, need_weights=need_weights)
    assert_close(explained(model, (TOKENS,), TOKENS_SEED, capture="export"), expected)


def test_multi_head_attention_with_the_batch_second() -> None:
    module = multi_head(batch_first=False)
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN)
    found = explained(SelfAttention(module), (TOKENS.transpose(0, 1),), TOKENS_SEED.transpose(0, 1))
    assert_close(found, expected.transpose(0, 1))


@pytest.mark.parametrize(("batch_first", "capture"), [(True, "auto"), (False, "auto"), (True, "export")])
def test_multi_head_attention_without_a_batch(batch_first: bool, capture: str) -> None:
    module = multi_head(batch_first=batch_first)
    _, expected = self_attention(TOKENS[:1], TOKENS_SEED[:1], module, PLAIN)
    options = {"capture": capture, "example_inputs": TOKENS[0]}
    assert_close(explained(SelfAttention(module), (TOKENS[0],), TOKENS_SEED[0], **options), expected[0])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_cross_attention(convention: str) -> None:
    module, memory = multi_head(), random(2, 5, 8, seed=3)
    _, back = oracle.multi_head_attention(TOKENS, memory, memory + 1, module, CONVENTIONS[convention])
    inputs = (TOKENS, memory, memory + 1)
    assert_close(
        explained(CrossAttention(module, need_weights=False), inputs, TOKENS_SEED, convention), back(TOKENS_SEED)
    )


def test_multi_head_attention_with_other_widths() -> None:
    """kdim and vdim: three projections of their own."""
    module: Any = randomize(nn.MultiheadAttention(8, 2, kdim=3, vdim=5, batch_first=True))
    key, value = random(2, 5, 3, seed=3), random(2, 5, 5, seed=4)
    b_q, b_k, b_v = module.in_proj_bias.detach().chunk(3)
    q, q_back = oracle.linear(TOKENS, module.q_proj_weight.detach(), b_q)
    k, k_back = oracle.linear(key, module.k_proj_weight.detach(), b_k)
    v, v_back = oracle.linear(value, module.v_proj_weight.detach(), b_v)
    mixed, back = oracle.attention(oracle.split_heads(q, 2), oracle.split_heads(k, 2), oracle.split_heads(v, 2), PLAIN)
    _, out_back = oracle.linear(
        oracle.join_heads(mixed), module.out_proj.weight.detach(), module.out_proj.bias.detach()
    )
    at_q, at_k, at_v = (oracle.join_heads(t) for t in back(oracle.split_heads(out_back(TOKENS_SEED), 2)))
    found = explained(CrossAttention(module), (TOKENS, key, value), TOKENS_SEED)
    assert_close(found, (q_back(at_q), k_back(at_k), v_back(at_v)))


def test_balance_of_a_multi_head_attention() -> None:
    """The steps of the program account for all of the relevance that they pass on."""
    module = multi_head(bias=False)
    balance = fxlrp.compile(SelfAttention(module, need_weights=False).eval(), rules="cplrp").balance(
        TOKENS, seed=TOKENS_SEED
    )
    assert not balance.leaks(tolerance=1e-3)


@pytest.mark.parametrize("average", [True, False])
def test_attention_weights_are_explained(average: bool) -> None:
    """The weights that nn.MultiheadAttention returns: a mean over heads, a softmax, and queries times keys."""

    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = multi_head()

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x, x, x, average_attn_weights=average)[1]

    model = Weights()
    w_q, w_k, _ = model.module.in_proj_weight.detach().chunk(3)
    b_q, b_k, _ = model.module.in_proj_bias.detach().chunk(3)
    q, q_back = oracle.linear(TOKENS, w_q, b_q)
    k, k_back = oracle.linear(TOKENS, w_k, b_k)
    scores, scores_back = oracle.matmul(oracle.split_heads(q, 2) / 2, oracle.split_heads(k, 2).mT)
    weights, weights_back = oracle.softmax(scores)
    mean = weights.mean(1)
    seed = random(2, 4, 4) if average else random(2, 2, 4, 4)
    at_weights = weights * (seed / stabilize(mean))[:, None] / 2 if average else seed
    at_q, at_k = scores_back(weights_back(at_weights))
    expected = q_back(oracle.join_heads(at_q)) + k_back(oracle.join_heads(at_k.mT))
    assert_close(explained(model, (TOKENS,), seed), expected)


def test_multi_head_attention_ignores_dropout() -> None:
    module = multi_head()
    _, expected = self_attention(TOKENS, TOKENS_SEED, module, PLAIN)
    module.dropout = 0.5
    for need_weights in (True, False):
        assert_close(explained(SelfAttention(module, need_weights=need_weights), (TOKENS,), TOKENS_SEED), expected)


@pytest.mark.parametrize("option", ["add_bias_kv", "add_zero_attn"])
def test_multi_head_attention_with_another_key(option: str) -> None:
    """One more key and value, learned or zero, which take their share as constants do."""
    module: Any = randomize(nn.MultiheadAttention(8, 2, batch_first=True, **{option: True}))
    w_q, w_k, w_v = module.in_proj_weight.detach().chunk(3)
    b_q, b_k, b_v = module.in_proj_bias.detach().chunk(3)
    (q, q_back), (k, k_back), (v, v_back) = (
        oracle.linear(TOKENS, w, b) for w, b in ((w_q, b_q), (w_k, b_k), (w_v, b_v))
    )
    if option == "add_bias_kv":
        k = torch.cat([k, module.bias_k.detach().expand(2, 1, 8)], dim=1)
        v = torch.cat([v, module.bias_v.detach().expand(2, 1, 8)], dim=1)
    else:
        k, v = (torch.cat([t, torch.zeros(2, 1, 8, dtype=t.dtype)], dim=1) for t in (k, v))
    mixed, back = oracle.attention(oracle.split_heads(q, 2), oracle.split_heads(k, 2), oracle.split_heads(v, 2), PLAIN)
    out, out_back = oracle.linear(
        oracle.join_heads(mixed), module.out_proj.weight.detach(), module.out_proj.bias.detach()
    )
    torch.testing.assert_close(out, module(TOKENS, TOKENS, TOKENS)[0].detach())
    at_q, at_k, at_v = (oracle.join_heads(t) for t in back(oracle.split_heads(out_back(TOKENS_SEED), 2)))
    expected = q_back(at_q) + k_back(at_k[:, :4]) + v_back(at_v[:, :4])
    assert_close(explained(SelfAttention(module), (TOKENS,), TOKENS_SEED), expected)

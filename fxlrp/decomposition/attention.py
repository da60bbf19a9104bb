"""Attention, and recurrent cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from fxlrp.decomposition.builder import Builder, Made


def _attention(
    build: Builder,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> fx.Node:
    """``softmax(scale * Q K^T + mask) V``."""
    keys = build("transpose", key, -2, -1)
    if enable_gqa:
        keys, value = build("repeat_heads", keys, query), build("repeat_heads", value, query)
    factor = build("attention_scale", query) if scale is None else scale
    scores = build("matmul", build("mul", query, factor), keys)
    mask = build("causal_mask", query, key) if is_causal else attn_mask
    if mask is None:
        return build("matmul", build("softmax", scores, -1), value)
    return build("matmul", build("safe_softmax", build("mask_scores", scores, mask), -1), value)


def _multi_head_attention(build: Builder, query: Any, key: Any, value: Any, **given: Any) -> Made:
    """``nn.functional.multi_head_attention_forward``, for ``(length, batch, features)``."""
    why = "MultiheadAttention is supported only for inputs with a batch dimension"
    checked = build("expect_dims", query, 3, why)
    # Keep one value that is used three times as one node.
    inputs = [checked if each is query else each for each in (query, key, value)]
    weights = [given[f"{name}_proj_weight"] for name in "qkv"]
    if not given["use_separate_proj_weight"]:
        chunks = build("chunk", given["in_proj_weight"], 3)
        weights = [build("getitem", chunks, index) for index in range(3)]
    biases: list[Any] = [None] * 3
    if given["in_proj_bias"] is not None:
        chunks = build("chunk", given["in_proj_bias"], 3)
        biases = [build("getitem", chunks, index) for index in range(3)]
    heads, features = given["num_heads"], given["embed_dim_to_check"] // given["num_heads"]
    split = []
    for each, weight, bias in zip(inputs, weights, biases, strict=True):
        projected = build("transpose", build("linear", each, weight, bias), 0, 1)
        split.append(build("transpose", build("unflatten", projected, -1, (heads, features)), 1, 2))
    q, k, v = split
    scores = build("matmul", build("mul", q, features**-0.5), build("transpose", k, -2, -1))
    mask = _merged_mask(build, given["attn_mask"], given["key_padding_mask"], heads)
    if mask is None:
        attention = build("softmax", scores, -1)
    else:
        attention = build("safe_softmax", build("mask_scores", scores, mask), -1)
    mixed = build("flatten", build("transpose", build("matmul", attention, v), 1, 2), 2)
    out = build("linear", build("transpose", mixed, 0, 1), given["out_proj_weight"], given["out_proj_bias"])
    return out, build("mean", attention, 1) if given["average_attn_weights"] else attention


def _merged_mask(build: Builder, attn_mask: Any, key_padding_mask: Any, heads: int) -> Any:
    """One mask that broadcasts to ``(batch, heads, queries, keys)``."""
    if attn_mask is not None:
        attn_mask = build("attention_mask", attn_mask, heads)
    if key_padding_mask is None:
        return attn_mask
    padding = build("padding_mask", key_padding_mask)
    return padding if attn_mask is None else build("both_masks", attn_mask, padding)


def _cell(kind: str) -> Callable[..., Made]:
    """A recurrent cell, as a layer over a sequence of length one."""

    def decomposed(build: Builder, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Made:
        is_lstm = isinstance(hx, list | tuple)
        states = [build("unsqueeze", state, 0) for state in (hx if is_lstm else (hx,))]
        weights = [each for each in (w_ih, w_hh, b_ih, b_hh) if each is not None]
        how = (b_ih is not None, 1, 0.0, False, False, False)
        layer = build(kind, build("unsqueeze", input, 0), states if is_lstm else states[0], weights, *how)
        last = tuple(build("squeeze", build("getitem", layer, 1 + index), 0) for index in range(len(states)))
        return last if is_lstm else last[0]

    return decomposed


DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {
    "scaled_dot_product_attention": _attention,
    "multi_head_attention": _multi_head_attention,
    **{f"{kind}_cell": _cell(kind) for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}

"""Operations that ``passes/decompose.py`` rewrites into others, and that therefore need no rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from fxlrp.operation import REQUIRED, Family, Operation
from fxlrp.vocabulary.schema import row, rows


def _composite(
    name: str, function: Callable[..., Any], parameters: dict[str, Any], *aliases: str, **options: Any
) -> Operation:
    return Operation(name, Family.COMPOSITE, function, parameters, aliases=aliases, allocates=True, **options)


def _multi_head_attention() -> Operation:
    """The function that ``nn.MultiheadAttention`` calls, with the length before the batch."""
    masks = dict(key_padding_mask=None, need_weights=True, attn_mask=None)
    separate = dict(use_separate_proj_weight=False, q_proj_weight=None, k_proj_weight=None, v_proj_weight=None)
    return _composite(
        "multi_head_attention",
        F.multi_head_attention_forward,
        {
            **dict.fromkeys(("query", "key", "value", "embed_dim_to_check", "num_heads"), REQUIRED),
            **dict.fromkeys(("in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn"), REQUIRED),
            **dict.fromkeys(("dropout_p", "out_proj_weight", "out_proj_bias"), REQUIRED),
            **dict(training=True, **masks, **separate, static_k=None, static_v=None),
            **dict(average_attn_weights=True, is_causal=False),
        },
        operands=("query", "key", "value"),
        required_values=dict(
            bias_k=None, bias_v=None, add_zero_attn=False, training=False, static_k=None, static_v=None
        ),
    )


_SCHEMAS = """
    addmv(input*, mat*, vec*, beta=1, alpha=1)
    addr(input*, vec1*, vec2*, beta=1, alpha=1)
    addbmm(input*, batch1*, batch2*, beta=1, alpha=1)
    addcdiv(input*, tensor1*, tensor2*, value=1)
    lerp(input*, end*, weight*)
    dist(input*, other*, p=2)
    pairwise_distance(x1*, x2*, p=2.0, eps=1e-6, keepdim=False)
    vdot(input*, other*)
    bilinear(input1*, input2*, weight, bias=None)
    outer(input*, vec2*)
    linalg.vecdot(x*, y*, dim=-1)
    median(input*, dim=None, keepdim=False)
    nanmedian(input*, dim=None, keepdim=False)
    cosine_embedding_loss(input1*, input2*, target, margin=0, size_average=None, reduce=None, reduction="mean")
    multilabel_soft_margin_loss(input*, target, weight=None, size_average=None, reduce=None, reduction="mean")
    polar(abs*, angle*)
    combinations(input*, r=2, with_replacement=False)
    constant_pad_nd(input*, pad, value=0)
    select_scatter(input*, src*, dim, index)
    slice_scatter(input*, src*, dim=0, start=None, end=None, step=1)
    local_response_norm(input*, size, alpha=1e-4, beta=0.75, k=1.0)
"""


_CROSS_ENTROPY = "weight=None, size_average=None, ignore_index=-100, reduce=None, reduction='mean', label_smoothing=0.0"


def _embedding_bag() -> Operation:
    how = dict(max_norm=None, norm_type=2.0, scale_grad_by_freq=False, mode="mean", sparse=False)
    rest = dict(per_sample_weights=None, include_last_offset=False, padding_idx=None)
    return _composite(
        "embedding_bag",
        F.embedding_bag,
        {"input": REQUIRED, "weight": REQUIRED, "offsets": None, **how, **rest},
        operands=("weight",),
        required_values={"max_norm": None},
    )


def composites() -> Iterator[Operation]:
    """The composite operations."""
    scaled = {"input": REQUIRED, "other": REQUIRED, "alpha": 1}
    yield _composite("rsub", torch.rsub, scaled)
    yield _composite("add_scaled", torch.add, scaled, "add")
    yield _composite("sub_scaled", torch.sub, scaled, "sub", "subtract")
    yield _composite("glu", F.glu, {"input": REQUIRED, "dim": -1})
    converted = {"input": REQUIRED, "dtype": REQUIRED, "non_blocking": False}
    yield Operation("type", Family.COMPOSITE, torch.Tensor.type, converted)
    # The method and the function take their arguments in different order.
    yield _composite("where_method", torch.Tensor.where, {"input": REQUIRED, "condition": REQUIRED, "other": REQUIRED})
    scales = {"beta": 1, "alpha": 1}
    yield _composite("addmm", torch.addmm, {"input": REQUIRED, "mat1": REQUIRED, "mat2": REQUIRED, **scales})
    yield _composite("baddbmm", torch.baddbmm, {"input": REQUIRED, "batch1": REQUIRED, "batch2": REQUIRED, **scales})
    yield _composite(
        "addcmul", torch.addcmul, {"input": REQUIRED, "tensor1": REQUIRED, "tensor2": REQUIRED, "value": 1}
    )
    spread = dict(input=REQUIRED, dim=None, unbiased=None, keepdim=False, correction=None)
    for name in ("var_mean", "std_mean"):
        yield _composite(name, getattr(torch, name), spread)
    yield from rows(Family.COMPOSITE, _SCHEMAS, allocates=True)
    together: dict[str, Any] = {"variadic": "tensors", "multiple_results": True}
    yield row(
        Family.COMPOSITE,
        "broadcast_tensors(tensors*)",
        torch.ops.aten.broadcast_tensors.default,
        overlaps=True,
        **together,
    )
    norm = 'norm_of(input*, p="fro", dim=None, keepdim=False, out=None, dtype=None)'
    # A module is often called norm, and a name of an operation selects no module.
    yield row(Family.COMPOSITE, norm, torch.norm, aliases=("norm",), required_values={"out": None}, allocates=True)
    cross_entropy = f"cross_entropy(input*, target, {_CROSS_ENTROPY})"
    yield row(Family.COMPOSITE, cross_entropy, aliases=("cross_entropy_loss",), allocates=True)
    for name in ("max", "min"):
        yield _composite(name, getattr(torch, name), {"input": REQUIRED, "dim": None, "keepdim": False, "other": None})
    yield _composite(
        "normalize_vectors",
        F.normalize,
        {"input": REQUIRED, "p": 2.0, "dim": 1, "eps": 1e-12, "out": None},
        required_values={"out": None},
    )
    yield _composite(
        "cosine_similarity",
        F.cosine_similarity,
        {"x1": REQUIRED, "x2": REQUIRED, "dim": 1, "eps": 1e-8},
        operands=("x1", "x2"),
    )
    yield _multi_head_attention()
    yield _embedding_bag()
    yield _composite(
        "scaled_dot_product_attention",
        F.scaled_dot_product_attention,
        {
            **dict.fromkeys(("query", "key", "value"), REQUIRED),
            **dict(attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False),
        },
        operands=("query", "key", "value"),
        required_values={"dropout_p": 0.0},
    )
    for name in ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"):
        weights = {"w_ih": REQUIRED, "w_hh": REQUIRED, "b_ih": None, "b_hh": None}
        parameters = {"input": REQUIRED, "hx": REQUIRED, **weights}
        yield _composite(name, getattr(torch, name), parameters, operands=("input", "hx"))

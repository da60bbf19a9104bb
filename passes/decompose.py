"""Decompose composite operations into canonical ones, so that only these need rules."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import fx

from fxlrp.errors import CaptureError
from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.passes.infer_dependence import sources_of
from fxlrp.program import Program
from fxlrp.provenance import describe, provenance

Made: TypeAlias = "fx.Node | tuple[fx.Node, ...]"


class _Builder:
    """Creates canonical calls in place of a composite one."""

    def __init__(self, program: Program, node: fx.Node) -> None:
        self._program, self._node = program, node

    def depends(self, value: Any) -> bool:
        """Whether a value depends on an input through tensors, and not only through sizes or comparisons."""
        seen: set[fx.Node] = set()
        waiting = [value] if isinstance(value, fx.Node) else []
        while waiting:
            node = waiting.pop()
            if node.op == "placeholder":
                return True
            if node not in seen:
                seen.add(node)
                waiting.extend(sources_of(node, self._program.vocabulary.operation(node)))
        return False

    def __call__(self, operation: str, *args: Any, **kwargs: Any) -> fx.Node:
        made = self._program.graph.call_function(self._program.vocabulary.operations[operation].function, args, kwargs)
        made.meta = provenance(self._node)
        return made


def _scaled(build: _Builder, value: Any, alpha: Any) -> Any:
    return value if alpha == 1 else build("mul", value, alpha)


def _rsub(build: _Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("sub", other, _scaled(build, input, alpha))


def _add_scaled(build: _Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("add", input, _scaled(build, other, alpha))


def _sub_scaled(build: _Builder, input: Any, other: Any, alpha: Any) -> fx.Node:
    return build("sub", input, _scaled(build, other, alpha))


def _glu(build: _Builder, input: Any, dim: int) -> fx.Node:
    halves = build("chunk", input, 2, dim=dim)
    return build("mul", build("getitem", halves, 0), build("sigmoid", build("getitem", halves, 1)))


def _addmm(build: _Builder, input: Any, mat1: Any, mat2: Any, beta: Any, alpha: Any) -> fx.Node:
    if beta == 1 and alpha == 1 and isinstance(mat2, fx.Node) and mat2.op == "get_attr":
        # A dense layer whose weight is stored transposed.
        return build("linear", mat1, build("transpose", mat2, -2, -1), input)
    product = build("matmul", mat1, mat2)
    return build("add", _scaled(build, input, beta), _scaled(build, product, alpha))


def _baddbmm(build: _Builder, input: Any, batch1: Any, batch2: Any, beta: Any, alpha: Any) -> fx.Node:
    product = build("matmul", batch1, batch2)
    return build("add", _scaled(build, input, beta), _scaled(build, product, alpha))


def _addcmul(build: _Builder, input: Any, tensor1: Any, tensor2: Any, value: Any) -> fx.Node:
    return build("add", input, _scaled(build, build("mul", tensor1, tensor2), value))


def _max(build: _Builder, input: Any, dim: Any, keepdim: bool, other: Any) -> Made:
    return _extremum(build, "maximum", input, dim, keepdim, other)


def _min(build: _Builder, input: Any, dim: Any, keepdim: bool, other: Any) -> Made:
    return _extremum(build, "minimum", input, dim, keepdim, other)


def _extremum(build: _Builder, name: str, input: Any, dim: Any, keepdim: bool, other: Any) -> Made:
    other = dim if isinstance(dim, fx.Node) else other
    if other is not None:
        return build(name, input, other)
    negative = name == "minimum"
    sought = build("neg", input) if negative else input
    largest = build("amax", sought) if dim is None else build("amax", sought, dim=dim, keepdim=keepdim)
    value = build("neg", largest) if negative else largest
    return value if dim is None else (value, build("argmax", sought, dim=dim, keepdim=keepdim))


def _var_mean(build: _Builder, input: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Made:
    how = {"unbiased": unbiased, "correction": correction}
    given = {name: value for name, value in how.items() if value is not None}
    over = {} if dim is None else {"dim": dim, "keepdim": keepdim}
    return build("var", input, **over, **given), build("mean", input, **over)


def _cell(kind: str) -> Callable[..., Made]:
    """A recurrent cell, as a layer over a sequence of length one."""

    def decomposed(build: _Builder, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Made:
        is_lstm = isinstance(hx, list | tuple)
        states = [build("unsqueeze", state, 0) for state in (hx if is_lstm else (hx,))]
        weights = [each for each in (w_ih, w_hh, b_ih, b_hh) if each is not None]
        how = (b_ih is not None, 1, 0.0, False, False, False)
        layer = build(kind, build("unsqueeze", input, 0), states if is_lstm else states[0], weights, *how)
        last = tuple(build("squeeze", build("getitem", layer, 1 + index), 0) for index in range(len(states)))
        return last if is_lstm else last[0]

    return decomposed


def _normalize_vectors(build: _Builder, input: Any, p: float, dim: Any, eps: float, out: None) -> fx.Node:
    norm = build("vector_norm", input, ord=p, dim=dim, keepdim=True)
    return build("div", input, build("clamp_min", norm, eps))


def _cosine_similarity(build: _Builder, x1: Any, x2: Any, dim: int, eps: float) -> fx.Node:
    directions = [
        build("div", each, build("clamp_min", build("vector_norm", each, dim=dim, keepdim=True), eps))
        for each in (x1, x2)
    ]
    return build("sum", build("mul", *directions), dim=dim)


def _attention(
    build: _Builder,
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
    if enable_gqa:
        key, value = build("repeat_heads", key, query), build("repeat_heads", value, query)
    factor = build("attention_scale", query) if scale is None else scale
    scores = build("matmul", build("mul", query, factor), build("transpose", key, -2, -1))
    mask = build("causal_mask", query, key) if is_causal else attn_mask
    if mask is None:
        return build("matmul", build("softmax", scores, -1), value)
    return build("matmul", build("safe_softmax", build("mask_scores", scores, mask), -1), value)


def _multi_head_attention(build: _Builder, query: Any, key: Any, value: Any, **given: Any) -> Made:
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


def _merged_mask(build: _Builder, attn_mask: Any, key_padding_mask: Any, heads: int) -> Any:
    """One mask that broadcasts to ``(batch, heads, queries, keys)``."""
    if attn_mask is not None:
        attn_mask = build("attention_mask", attn_mask, heads)
    if key_padding_mask is None:
        return attn_mask
    padding = build("padding_mask", key_padding_mask)
    return padding if attn_mask is None else build("both_masks", attn_mask, padding)


def _where_method(build: _Builder, input: Any, condition: Any, other: Any) -> fx.Node:
    return build("where", condition, input, other)


def _divide_constant(build: _Builder, input: Any, other: Any, rounding_mode: None) -> fx.Node | None:
    """Rewrite ``2 / x`` as ``2 * x ** -1``, because a constant numerator cannot receive relevance.

    If ``x`` is a size, it is a number, and the power is valid too.
    """
    is_constant = build.depends(other) and not build.depends(input)
    return build("mul", build("pow", other, -1.0), input) if is_constant or not isinstance(input, fx.Node) else None


# The decompositions. They return None for a call that remains unchanged.
DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {
    "div": _divide_constant,
    "addmm": _addmm,
    "baddbmm": _baddbmm,
    "addcmul": _addcmul,
    "max": _max,
    "min": _min,
    "var_mean": _var_mean,
    **{f"{kind}_cell": _cell(kind) for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "normalize_vectors": _normalize_vectors,
    "cosine_similarity": _cosine_similarity,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention": _multi_head_attention,
    "rsub": _rsub,
    "add_scaled": _add_scaled,
    "sub_scaled": _sub_scaled,
    "glu": _glu,
    "where_method": _where_method,
}


@compiler_pass(needs=["canonical"], provides=["decomposed"])
def decompose(program: Program) -> int:
    """Replace every composite operation, and every dtype argument of a reduction; return how many there were."""
    count = 0
    for node in list(program.graph.nodes):
        operation = program.vocabulary.operation(node)
        if operation is None:
            continue
        decomposition = DECOMPOSITIONS.get(operation.name)
        if decomposition is None:
            count += _convert_first(program, node, operation)
            continue
        with program.graph.inserting_before(node):
            made = decomposition(_Builder(program, node), **operation.arguments(node))
        if made is not None:
            _replace(program, node, made)
            count += 1
    return count


def _replace(program: Program, node: fx.Node, made: Made) -> None:
    if isinstance(made, fx.Node):
        # The node itself becomes the last call, and keeps its name.
        node.target, node.args, node.kwargs = made.target, made.args, made.kwargs
        program.graph.erase_node(made)
        return
    for user in list(node.users):
        index = user.args[1] if user.target is operator.getitem and user.args[0] is node else None
        if not isinstance(index, int):
            raise CaptureError(f"all results of a call are used at once; select them one by one: {describe(node)}")
        user.replace_all_uses_with(made[index])
        program.graph.erase_node(user)
    program.graph.erase_node(node)


def _convert_first(program: Program, node: fx.Node, operation: Operation) -> int:
    """Rewrite ``softmax(x, dtype=t)`` as ``softmax(x.to(t))``; sums of integers remain unchanged."""
    if "dtype" not in operation.parameters or operation.family is Family.NO_RELEVANCE:
        return 0
    arguments = operation.arguments(node)
    dtype = arguments["dtype"]
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return 0
    with program.graph.inserting_before(node):
        converted = _Builder(program, node)("to", arguments["input"], dtype)
    node.args, node.kwargs = operation.call({**arguments, "input": converted, "dtype": None})
    return 1

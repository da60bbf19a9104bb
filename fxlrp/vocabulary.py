"""The canonical operations: the one list that rules, passes and printing are keyed by.

A model may write the same operation in many ways (``x + y``, ``x += y``, ``torch.add``, ``x.add_(y)``); after
normalization there is one. Names are those of ATen at the level that ``torch.export`` keeps before decomposition.
To add an operation, add a row here; if its family already has rules, that is all.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from fxlrp.functions import (
    attention_mask,
    attention_scale,
    both_masks,
    causal_mask,
    expect_dims,
    initial_state,
    mask_scores,
    padding_mask,
    repeat_heads,
    set_item,
)
from fxlrp.operation import REQUIRED, Family, Operation, Vocabulary

_UNARY = {"input": REQUIRED, "inplace": False}


def _linear() -> Iterator[Operation]:
    yield Operation("linear", Family.LINEAR, F.linear, {"input": REQUIRED, "weight": REQUIRED, "bias": None})
    for n in (1, 2, 3):
        yield Operation(
            f"conv{n}d",
            Family.LINEAR,
            getattr(torch, f"conv{n}d"),
            dict(input=REQUIRED, weight=REQUIRED, bias=None, stride=1, padding=0, dilation=1, groups=1),
        )
        yield Operation(
            f"conv_transpose{n}d",
            Family.LINEAR,
            getattr(torch, f"conv_transpose{n}d"),
            dict(
                input=REQUIRED,
                weight=REQUIRED,
                bias=None,
                stride=1,
                padding=0,
                output_padding=0,
                groups=1,
                dilation=1,
            ),
        )


def _arithmetic() -> Iterator[Operation]:
    binary = {"input": REQUIRED, "other": REQUIRED}
    both = ("input", "other")
    yield Operation("add", Family.SUM, operator.add, binary, both)
    yield Operation("sub", Family.SUM, operator.sub, binary, both, also=("subtract",))
    yield Operation("mul", Family.PRODUCT, operator.mul, binary, both, also=("multiply",))
    yield Operation(
        "div",
        Family.PRODUCT,
        operator.truediv,
        {**binary, "rounding_mode": None},
        also=("truediv", "true_divide", "divide"),
        constants=("other",),
        frozen={"rounding_mode": None},
    )
    yield Operation("neg", Family.ACTIVATION, operator.neg, {"input": REQUIRED}, also=("negative",))
    yield Operation("matmul", Family.MATMUL, torch.matmul, binary, both, also=("bmm", "mm", "mv", "dot"))
    yield Operation(
        "einsum",
        Family.MATMUL,
        torch.einsum,
        {"equation": REQUIRED, "operands": REQUIRED},
        ("operands",),
        variadic="operands",
    )


def _multi_head_attention() -> Operation:
    """What ``nn.MultiheadAttention`` calls, with the length before the batch."""
    masks = dict(key_padding_mask=None, need_weights=True, attn_mask=None)
    separate = dict(use_separate_proj_weight=False, q_proj_weight=None, k_proj_weight=None, v_proj_weight=None)
    unsupported = dict(bias_k=None, bias_v=None, add_zero_attn=False, training=False, static_k=None, static_v=None)
    return Operation(
        "multi_head_attention",
        Family.COMPOSITE,
        F.multi_head_attention_forward,
        {
            **dict.fromkeys(("query", "key", "value", "embed_dim_to_check", "num_heads"), REQUIRED),
            **dict.fromkeys(("in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn"), REQUIRED),
            **dict.fromkeys(("dropout_p", "out_proj_weight", "out_proj_bias"), REQUIRED),
            **dict(training=True, **masks, **separate, static_k=None, static_v=None),
            **dict(average_attn_weights=True, is_causal=False),
        },
        ("query", "key", "value"),
        frozen=unsupported,
    )


def _composites() -> Iterator[Operation]:
    """Operations that ``passes/decompose.py`` rewrites into others."""

    def composite(name: str, function: Callable[..., Any], parameters: dict[str, Any], *also: str) -> Operation:
        return Operation(name, Family.COMPOSITE, function, {"input": REQUIRED, **parameters}, also=also)

    scaled = {"other": REQUIRED, "alpha": 1}
    yield composite("rsub", torch.rsub, scaled)
    yield composite("add_scaled", torch.add, scaled, "add")
    yield composite("sub_scaled", torch.sub, scaled, "sub", "subtract")
    yield composite("glu", F.glu, {"dim": -1})
    # The method takes its arguments in another order than the function.
    yield composite("where_method", torch.Tensor.where, {"condition": REQUIRED, "other": REQUIRED})
    yield composite("addmm", torch.addmm, {"mat1": REQUIRED, "mat2": REQUIRED, "beta": 1, "alpha": 1})
    yield composite("baddbmm", torch.baddbmm, {"batch1": REQUIRED, "batch2": REQUIRED, "beta": 1, "alpha": 1})
    yield composite("var_mean", torch.var_mean, {"dim": None, "unbiased": None, "keepdim": False, "correction": None})
    yield composite("addcmul", torch.addcmul, {"tensor1": REQUIRED, "tensor2": REQUIRED, "value": 1})
    for name in ("max", "min"):
        yield composite(name, getattr(torch, name), {"dim": None, "keepdim": False, "other": None})
    yield Operation(
        "normalize_vectors",
        Family.COMPOSITE,
        F.normalize,
        {"input": REQUIRED, "p": 2.0, "dim": 1, "eps": 1e-12, "out": None},
        frozen={"out": None},
    )
    yield Operation(
        "cosine_similarity",
        Family.COMPOSITE,
        F.cosine_similarity,
        {"x1": REQUIRED, "x2": REQUIRED, "dim": 1, "eps": 1e-8},
        ("x1", "x2"),
    )
    yield _multi_head_attention()
    yield Operation(
        "scaled_dot_product_attention",
        Family.COMPOSITE,
        F.scaled_dot_product_attention,
        dict(
            query=REQUIRED,
            key=REQUIRED,
            value=REQUIRED,
            attn_mask=None,
            dropout_p=0.0,
            is_causal=False,
            scale=None,
            enable_gqa=False,
        ),
        operands=("query", "key", "value"),
        frozen={"dropout_p": 0.0},
    )


def _activations() -> Iterator[Operation]:
    plain = "relu relu6 selu silu mish hardswish hardsigmoid logsigmoid softsign tanhshrink tanh sigmoid"
    aliases = {"sigmoid": ("expit",)}
    for name in plain.split():
        function = getattr(torch, name, None) or getattr(F, name)
        yield Operation(name, Family.ACTIVATION, function, _UNARY, also=aliases.get(name, ()))
    parametrized: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "leaky_relu": (F.leaky_relu, {"negative_slope": 0.01, "inplace": False}),
        "elu": (F.elu, {"alpha": 1.0, "inplace": False}),
        "celu": (F.celu, {"alpha": 1.0, "inplace": False}),
        "gelu": (F.gelu, {"approximate": "none"}),
        "hardtanh": (F.hardtanh, {"min_val": -1.0, "max_val": 1.0, "inplace": False}),
        "softplus": (F.softplus, {"beta": 1.0, "threshold": 20.0}),
        "softshrink": (F.softshrink, {"lambd": 0.5}),
        "hardshrink": (F.hardshrink, {"lambd": 0.5}),
        "threshold": (F.threshold, {"threshold": REQUIRED, "value": REQUIRED, "inplace": False}),
        "prelu": (F.prelu, {"weight": REQUIRED}),
        "clamp": (torch.clamp, {"min": None, "max": None}),
        "clamp_min": (torch.clamp_min, {"min": REQUIRED}),
        "clamp_max": (torch.clamp_max, {"max": REQUIRED}),
    }
    for name, (function, parameters) in parametrized.items():
        also = ("clip",) if name == "clamp" else ()
        yield Operation(name, Family.ACTIVATION, function, {"input": REQUIRED, **parameters}, also=also)
    yield Operation(
        "rrelu",
        Family.ACTIVATION,
        F.rrelu,
        dict(input=REQUIRED, lower=1 / 8, upper=1 / 3, training=False, inplace=False),
        frozen={"training": False},
    )

    for name in "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal square abs sin cos tan atan erf".split():
        yield Operation(name, Family.ACTIVATION, getattr(torch, name), {"input": REQUIRED})
    yield Operation("pow", Family.ACTIVATION, operator.pow, {"input": REQUIRED, "exponent": REQUIRED})


def _embedding() -> Iterator[Operation]:
    yield Operation(
        "embedding",
        Family.EMBEDDING,
        F.embedding,
        dict(
            input=REQUIRED,
            weight=REQUIRED,
            padding_idx=None,
            max_norm=None,
            norm_type=2.0,
            scale_grad_by_freq=False,
            sparse=False,
        ),
        frozen={"max_norm": None},
    )


def _recurrent() -> Iterator[Operation]:
    for name in ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"):
        weights = {"w_ih": REQUIRED, "w_hh": REQUIRED, "b_ih": None, "b_hh": None}
        parameters = {"input": REQUIRED, "hx": REQUIRED, **weights}
        yield Operation(name, Family.COMPOSITE, getattr(torch, name), parameters, ("input", "hx"))
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        yield Operation(
            name,
            Family.RECURRENT,
            getattr(torch, name),
            dict(
                input=REQUIRED,
                hx=REQUIRED,
                params=REQUIRED,
                has_biases=REQUIRED,
                num_layers=REQUIRED,
                dropout=REQUIRED,
                train=REQUIRED,
                bidirectional=REQUIRED,
                batch_first=REQUIRED,
            ),
            ("input", "hx"),
            frozen={"train": False},
            many=True,
        )


def _softmax() -> Iterator[Operation]:
    parameters = {"input": REQUIRED, "dim": REQUIRED, "dtype": None, "_stacklevel": 3}
    for name in ("softmax", "log_softmax"):
        yield Operation(name, Family.SOFTMAX, getattr(F, name), parameters)
    of_aten = {"input": REQUIRED, "dim": REQUIRED, "dtype": None}
    yield Operation("safe_softmax", Family.SOFTMAX, torch._safe_softmax, of_aten)


def _pooling() -> Iterator[Operation]:
    for n in (1, 2, 3):
        yield Operation(
            f"max_pool{n}d",
            Family.MAX_POOL,
            getattr(F, f"max_pool{n}d"),
            dict(
                input=REQUIRED,
                kernel_size=REQUIRED,
                stride=None,
                padding=0,
                dilation=1,
                ceil_mode=False,
                return_indices=False,
            ),
            frozen={"return_indices": False},
        )
        yield Operation(
            f"adaptive_max_pool{n}d",
            Family.MAX_POOL,
            getattr(F, f"adaptive_max_pool{n}d"),
            dict(input=REQUIRED, output_size=REQUIRED, return_indices=False),
            frozen={"return_indices": False},
        )
        windows: dict[str, Any] = dict(
            input=REQUIRED,
            kernel_size=REQUIRED,
            stride=None,
            padding=0,
            ceil_mode=False,
            count_include_pad=True,
        )
        if n > 1:
            windows["divisor_override"] = None
        yield Operation(f"avg_pool{n}d", Family.AVERAGE, getattr(F, f"avg_pool{n}d"), windows)
        yield Operation(
            f"adaptive_avg_pool{n}d",
            Family.AVERAGE,
            getattr(F, f"adaptive_avg_pool{n}d"),
            {"input": REQUIRED, "output_size": REQUIRED},
        )
    yield Operation("amax", Family.MAX_POOL, torch.amax, {"input": REQUIRED, "dim": (), "keepdim": False})
    reduction: dict[str, Any] = {"input": REQUIRED, "dim": None, "keepdim": False, "dtype": None}
    yield Operation("mean", Family.AVERAGE, torch.mean, reduction)
    yield Operation("sum", Family.AVERAGE, torch.sum, reduction)
    yield Operation(
        "vector_norm",
        Family.AVERAGE,
        torch.linalg.vector_norm,
        {"input": REQUIRED, "ord": 2, "dim": None, "keepdim": False, "dtype": None},
        also=("linalg_vector_norm",),
    )
    for name in ("var", "std"):
        spread: dict[str, Any] = dict(input=REQUIRED, dim=None, unbiased=None, keepdim=False, correction=None)
        yield Operation(name, Family.AVERAGE, getattr(torch, name), spread)
    yield Operation("cumsum", Family.AVERAGE, torch.cumsum, {"input": REQUIRED, "dim": REQUIRED, "dtype": None})
    yield Operation(
        "fold",
        Family.AVERAGE,
        F.fold,
        dict(input=REQUIRED, output_size=REQUIRED, kernel_size=REQUIRED, dilation=1, padding=0, stride=1),
    )
    yield Operation(
        "interpolate",
        Family.AVERAGE,
        F.interpolate,
        dict(
            input=REQUIRED,
            size=None,
            scale_factor=None,
            mode="nearest",
            align_corners=None,
            recompute_scale_factor=None,
            antialias=False,
        ),
        also=("upsample",),
    )


def _normalization() -> Iterator[Operation]:
    yield Operation(
        "batch_norm",
        Family.NORMALIZATION,
        F.batch_norm,
        dict(
            input=REQUIRED,
            running_mean=REQUIRED,
            running_var=REQUIRED,
            weight=None,
            bias=None,
            training=False,
            momentum=0.1,
            eps=1e-5,
        ),
        frozen={"training": False},
    )
    yield Operation(
        "instance_norm",
        Family.NORMALIZATION,
        F.instance_norm,
        dict(
            input=REQUIRED,
            running_mean=None,
            running_var=None,
            weight=None,
            bias=None,
            use_input_stats=True,
            momentum=0.1,
            eps=1e-5,
        ),
    )
    yield Operation(
        "layer_norm",
        Family.NORMALIZATION,
        F.layer_norm,
        dict(input=REQUIRED, normalized_shape=REQUIRED, weight=None, bias=None, eps=1e-5),
    )
    yield Operation(
        "group_norm",
        Family.NORMALIZATION,
        F.group_norm,
        dict(input=REQUIRED, num_groups=REQUIRED, weight=None, bias=None, eps=1e-5),
    )
    yield Operation(
        "rms_norm",
        Family.NORMALIZATION,
        F.rms_norm,
        dict(input=REQUIRED, normalized_shape=REQUIRED, weight=None, eps=None),
    )
    yield Operation(
        "local_response_norm",
        Family.NORMALIZATION,
        F.local_response_norm,
        dict(input=REQUIRED, size=REQUIRED, alpha=1e-4, beta=0.75, k=1.0),
    )


def _shape() -> Iterator[Operation]:
    def shape(name: str, function: Callable[..., Any], parameters: dict[str, Any], **options: Any) -> Operation:
        options.setdefault("view", True)
        return Operation(name, Family.SHAPE, function, {"input": REQUIRED, **parameters}, **options)

    method = torch.Tensor
    yield shape("reshape", method.reshape, {"shape": REQUIRED}, also=("view", "_unsafe_view"), variadic="shape")
    for name in ("reshape_as", "view_as"):
        yield shape(name, getattr(method, name), {"other": REQUIRED}, weights=("other",))
    yield shape("flatten", torch.flatten, {"start_dim": 0, "end_dim": -1}, also=("ravel",))
    yield shape("t", torch.t, {})
    yield shape("unflatten", torch.unflatten, {"dim": REQUIRED, "sizes": REQUIRED})
    yield shape("squeeze", torch.squeeze, {"dim": None})
    yield shape("unsqueeze", torch.unsqueeze, {"dim": REQUIRED})
    yield shape("permute", method.permute, {"dims": REQUIRED}, variadic="dims")
    yield shape("transpose", torch.transpose, {"dim0": REQUIRED, "dim1": REQUIRED}, also=("swapaxes", "swapdims"))
    yield shape("movedim", torch.movedim, {"source": REQUIRED, "destination": REQUIRED}, also=("moveaxis",))
    yield shape("expand", method.expand, {"size": REQUIRED}, also=("broadcast_to",), variadic="size")
    yield shape("expand_as", method.expand_as, {"other": REQUIRED}, weights=("other",))
    yield shape("repeat", method.repeat, {"repeats": REQUIRED}, variadic="repeats", view=False)
    yield shape("tile", torch.tile, {"dims": REQUIRED}, variadic="dims", view=False)
    yield shape(
        "repeat_interleave",
        torch.repeat_interleave,
        {"repeats": REQUIRED, "dim": None},
        weights=("repeats",),
        view=False,
    )
    yield shape("flip", method.flip, {"dims": REQUIRED}, variadic="dims", view=False)
    yield shape("roll", torch.roll, {"shifts": REQUIRED, "dims": None}, view=False)
    yield shape("select", torch.select, {"dim": REQUIRED, "index": REQUIRED})
    yield shape("narrow", torch.narrow, {"dim": REQUIRED, "start": REQUIRED, "length": REQUIRED})
    yield shape(
        "index_select",
        torch.index_select,
        {"dim": REQUIRED, "index": REQUIRED},
        weights=("index",),
        view=False,
    )
    yield shape("gather", torch.gather, {"dim": REQUIRED, "index": REQUIRED}, weights=("index",), view=False)
    yield shape("getitem", operator.getitem, {"index": REQUIRED}, weights=("index",))
    yield shape("pad", F.pad, {"pad": REQUIRED, "mode": "constant", "value": None}, view=False)
    yield shape("pixel_shuffle", torch.pixel_shuffle, {"upscale_factor": REQUIRED}, view=False)
    yield shape("pixel_unshuffle", torch.pixel_unshuffle, {"downscale_factor": REQUIRED}, view=False)
    yield shape("channel_shuffle", torch.channel_shuffle, {"groups": REQUIRED}, view=False)
    yield shape("to", method.to, {"args": (), "kwargs": {}}, also=("type_as",), weights=("args", "kwargs"), free=True)
    for name in ("float", "double", "half", "bfloat16"):
        yield shape(name, getattr(method, name), {"memory_format": torch.preserve_format})
    yield shape("masked_fill", torch.masked_fill, {"mask": REQUIRED, "value": REQUIRED}, weights=("mask",), view=False)
    yield shape(
        "unfold",
        F.unfold,
        dict(kernel_size=REQUIRED, dilation=1, padding=0, stride=1),
        view=False,
    )
    yield shape("nan_to_num", torch.nan_to_num, {"nan": None, "posinf": None, "neginf": None}, view=False)
    yield shape("repeat_heads", repeat_heads, {"like": REQUIRED}, weights=("like",), view=False)
    yield shape("windows", method.unfold, {"dimension": REQUIRED, "size": REQUIRED, "step": REQUIRED})
    for name in ("tril", "triu"):
        yield shape(name, getattr(torch, name), {"diagonal": 0}, view=False)
    along = {"indices": REQUIRED, "dim": None}
    yield shape("take_along_dim", torch.take_along_dim, along, weights=("indices",), view=False)
    yield shape("diagonal", torch.diagonal, {"offset": 0, "dim1": 0, "dim2": 1})
    yield shape("topk", torch.topk, {"k": REQUIRED, "dim": -1, "largest": True, "sorted": True}, many=True, view=False)
    yield shape("sort", torch.sort, {"dim": -1, "descending": False, "stable": False}, many=True, view=False)
    yield shape("chunk", torch.chunk, {"chunks": REQUIRED, "dim": 0}, many=True)
    yield shape(
        "split", torch.split, {"split_size_or_sections": REQUIRED, "dim": 0}, also=("split_with_sizes",), many=True
    )
    yield shape("unbind", torch.unbind, {"dim": 0}, many=True)
    yield Operation(
        "where",
        Family.SHAPE,
        torch.where,
        {"condition": REQUIRED, "input": REQUIRED, "other": REQUIRED},
        ("input", "other"),
        weights=("condition",),
    )
    yield Operation(
        "mask_scores",
        Family.MASK,
        mask_scores,
        {"input": REQUIRED, "mask": REQUIRED},
        ("input", "mask"),
    )
    for name in ("maximum", "minimum"):
        binary = {"input": REQUIRED, "other": REQUIRED}
        yield Operation(name, Family.SHAPE, getattr(torch, name), binary, ("input", "other"))
    tensors = {"tensors": REQUIRED, "dim": 0}
    yield Operation("cat", Family.SHAPE, torch.cat, tensors, ("tensors",), also=("concat", "concatenate"))
    yield Operation("stack", Family.SHAPE, torch.stack, tensors, ("tensors",))
    for name in ("hstack", "vstack", "dstack"):
        yield Operation(name, Family.SHAPE, getattr(torch, name), {"tensors": REQUIRED}, ("tensors",))
    yield Operation(
        "setitem",
        Family.SHAPE,
        set_item,
        {"input": REQUIRED, "index": REQUIRED, "value": REQUIRED},
        ("input", "value"),
        weights=("index",),
    )


def _checks() -> Iterator[Operation]:
    yield Operation(
        "expect_dims", Family.CHECK, expect_dims, {"input": REQUIRED, "dims": REQUIRED, "why": REQUIRED}, view=True
    )


def _identities() -> Iterator[Operation]:
    """Operations that leave every value as it is in eval mode."""
    dropout: dict[str, Any] = {"input": REQUIRED, "p": 0.5, "training": True, "inplace": False}
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d"):
        yield Operation(name, Family.IDENTITY, getattr(F, name), dropout, frozen={"training": False}, view=True)
    for name in ("alpha_dropout", "feature_alpha_dropout"):
        parameters = {**dropout, "training": False}
        yield Operation(name, Family.IDENTITY, getattr(F, name), parameters, frozen={"training": False}, view=True)
    yield Operation(
        "stochastic_depth",
        Family.IDENTITY,
        _identity,
        dict(input=REQUIRED, p=REQUIRED, mode=REQUIRED, training=True),
        qualified=("torchvision.ops.stochastic_depth.stochastic_depth",),
        frozen={"training": False},
        view=True,
    )
    for name in ("contiguous", "clone", "detach", "positive"):
        also = ("pos",) if name == "positive" else ()
        yield Operation(
            name,
            Family.IDENTITY,
            getattr(torch.Tensor, name),
            {"input": REQUIRED, "memory_format": None},
            also=also,
            view=name != "clone",
        )


def _identity(input: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return input


# Attributes of a tensor that are no tensors.
SHAPE_ATTRIBUTES = frozenset(
    "shape dtype device layout ndim is_cuda is_cpu is_sparse is_quantized requires_grad names itemsize nbytes".split()
)


def _no_relevance() -> Iterator[Operation]:
    """Results that no relevance reaches: shapes, comparisons, indices."""
    yield Operation("getattr", Family.NO_RELEVANCE, builtins.getattr, {"input": REQUIRED, "name": REQUIRED})
    names = "eq ne lt le gt ge and_ or_ xor invert not_ is_ is_not contains"
    also = {
        "and_": ("and", "bitwise_and"),
        "or_": ("or", "bitwise_or"),
        "xor": ("bitwise_xor",),
        "invert": ("bitwise_not",),
    }
    parameters: dict[str, Any]
    for name in names.split():
        function = getattr(operator, name)
        parameters = {"input": REQUIRED} if name in ("invert", "not_") else {"input": REQUIRED, "other": REQUIRED}
        yield Operation(name, Family.NO_RELEVANCE, function, parameters, also=also.get(name, ()))
    shaped: dict[str, Any] = {"input": REQUIRED, "dim": None}
    for name in ("size", "argmax", "argmin"):
        parameters = {**shaped, "keepdim": False} if name != "size" else shaped
        yield Operation(name, Family.NO_RELEVANCE, getattr(torch.Tensor, name), parameters)
    for name in ("dim numel is_floating_point is_complex element_size isnan isinf isfinite logical_not").split():
        yield Operation(name, Family.NO_RELEVANCE, getattr(torch.Tensor, name), {"input": REQUIRED})
    like: dict[str, Any] = {"input": REQUIRED, "dtype": None, "device": None, "requires_grad": False}
    for name in ("zeros_like", "ones_like", "empty_like"):
        yield Operation(name, Family.NO_RELEVANCE, getattr(torch, name), like)
    yield Operation(
        "full_like", Family.NO_RELEVANCE, torch.full_like, {"input": REQUIRED, "fill_value": REQUIRED, **like}
    )
    states = {"input": REQUIRED, "count": REQUIRED, "features": REQUIRED, "batch_dim": REQUIRED}
    yield Operation("initial_state", Family.NO_RELEVANCE, initial_state, states)
    yield Operation("attention_mask", Family.NO_RELEVANCE, attention_mask, {"input": REQUIRED, "heads": REQUIRED})
    yield Operation("padding_mask", Family.NO_RELEVANCE, padding_mask, {"input": REQUIRED})
    yield Operation("both_masks", Family.NO_RELEVANCE, both_masks, {"input": REQUIRED, "second": REQUIRED})
    yield Operation("attention_scale", Family.NO_RELEVANCE, attention_scale, {"input": REQUIRED})
    yield Operation("causal_mask", Family.NO_RELEVANCE, causal_mask, {"input": REQUIRED, "key": REQUIRED})
    ordered = {"input": REQUIRED, "dim": -1, "descending": False}
    yield Operation("argsort", Family.NO_RELEVANCE, torch.argsort, ordered)
    for name in ("new_zeros", "new_ones", "new_empty"):
        parameters = {"input": REQUIRED, "size": REQUIRED, "dtype": None, "device": None}
        yield Operation(name, Family.NO_RELEVANCE, getattr(torch.Tensor, name), parameters, variadic="size")


CANONICAL = Vocabulary(
    [
        *_linear(),
        *_composites(),
        *_arithmetic(),
        *_activations(),
        *_softmax(),
        *_embedding(),
        *_recurrent(),
        *_pooling(),
        *_normalization(),
        *_shape(),
        *_checks(),
        *_identities(),
        *_no_relevance(),
    ]
)

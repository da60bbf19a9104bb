"""The parameters with which every canonical operation is tried, those that turn signs or share memory among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fxlrp.vocabulary import CANONICAL
from places import ALONG, BOOLS, CUBE, IMAGE, TOKENS, Arguments, M, V, each, fixed, of, only, two
from settings_of_functions import FUNCTIONS
from settings_of_matrix_functions import MATRIX_FUNCTIONS
from settings_of_selections import SELECTIONS
from settings_of_transforms import TRANSFORMS

NAN, INF = math.nan, math.inf


def _linear() -> Iterator[tuple[str, list[Arguments]]]:
    biased = dict(weight=fixed(5, 4), bias=fixed(5))
    yield "linear", [*only(CUBE, biased, dict(weight=fixed(5, 4))), *only(V(3, 4), biased), *only(V(4), biased)]
    for n in (1, 2, 3):
        image, kernel = V(2, 4, *(5,) * n), (3,) * n
        yield (
            f"conv{n}d",
            only(
                image,
                dict(weight=fixed(6, 4, *kernel), bias=fixed(6)),
                dict(weight=fixed(6, 2, *kernel), stride=2, padding=1, groups=2),
                dict(weight=fixed(4, 1, *kernel), padding="same", groups=4),
                dict(weight=fixed(3, 4, *(1,) * n), bias=fixed(3), padding="valid"),
                dict(weight=fixed(3, 4, *(2,) * n), dilation=2),
            ),
        )
        yield (
            f"conv_transpose{n}d",
            only(
                image,
                dict(weight=fixed(4, 6, *kernel), bias=fixed(6)),
                dict(weight=fixed(4, 3, *kernel), stride=2, padding=1, output_padding=1, groups=2),
                dict(weight=fixed(4, 6, *(2,) * n), dilation=2),
            ),
        )


def _arithmetic() -> Iterator[tuple[str, list[Arguments]]]:
    pairs = [(M, M), (M, V(6)), (V(4, 1), V(1, 6)), (M, fixed(6))]
    numbers = (-2, 0, 2, 0.5, -1.0)
    both = [two(*pair) for pair in pairs]
    yield "add", [*both, *(two(M, number) for number in numbers), two(M, True), two(-1, M), two(1, M)]
    yield "sub", [*both, *(two(M, number) for number in numbers), two(1, M)]
    yield "mul", [*both, *(two(M, number) for number in numbers), two(M, True), two(-2, M)]
    yield "div", [*both, *(two(M, number) for number in (-2, 2, 0.5)), two(1, M), two(-1.0, M)]
    yield "neg", of(M, {"input": V(3)})
    shapes: list[list[tuple[int, ...]]] = [
        [(3,), (3,)],
        [(2, 3), (3,)],
        [(3,), (3, 4)],
        [(2, 3), (3, 4)],
        [(2, 2, 3), (2, 3, 4)],
        [(2, 2, 3), (3, 4)],
    ]
    yield (
        "matmul",
        [*(two(V(*first), V(*second)) for first, second in shapes), two(M, fixed(6, 3)), two(fixed(3, 4), M)],
    )
    views = ["ij->ji", "ij->ij", "ij", "ij->i", "ij->", "ij->j", "...j->j..."]
    products = [
        *[("ij,jk->ik", (2, 3), (3, 4)), ("ij,ij->ij", (4, 6), (4, 6)), ("ij,ij->i", (4, 6), (4, 6))],
        *[("ij,j->ij", (4, 6), (6,)), ("bi,bj->bij", (2, 3), (2, 4)), ("bij,bkj->bik", (2, 3, 4), (2, 2, 4))],
        *[("ij,ij->", (2, 3), (2, 3)), ("i,j->ij", (3,), (4,)), ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2))],
    ]
    yield (
        "einsum",
        [
            *(dict(equation=equation, operands=[M]) for equation in views),
            *(dict(equation=equation, operands=[V(4, 4)]) for equation in ("ii->i", "ii")),
            *(dict(equation="ij->i", operands=[V(4, 1)]), dict(equation="ijk->kij", operands=[CUBE])),
            *(dict(equation=equation, operands=[V(*s) for s in shapes]) for equation, *shapes in products),
            dict(equation="ij,jk->ik", operands=[M, fixed(6, 3)]),
        ],
    )


def _attention() -> Iterator[tuple[str, list[Arguments]]]:
    heads = dict(query=V(2, 2, 3, 4), key=V(2, 2, 5, 4), value=V(2, 2, 5, 4))
    grouped = dict(query=V(2, 4, 3, 4), key=V(2, 2, 3, 4), value=V(2, 2, 3, 4))
    mask = (torch.arange(15).reshape(3, 5) % 4 == 0) | torch.eye(3, 5).bool()
    given: list[Arguments] = [{}, dict(attn_mask=mask), dict(attn_mask=fixed(3, 5))]
    given += [dict(scale=-0.5), dict(is_causal=True)]
    yield "scaled_dot_product_attention", [*({**heads, **one} for one in given), {**grouped, "enable_gqa": True}]
    projected = dict(
        query=V(3, 2, 4),
        key=V(5, 2, 4),
        value=V(5, 2, 4),
        embed_dim_to_check=4,
        num_heads=2,
        in_proj_weight=fixed(12, 4),
        in_proj_bias=fixed(12),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=fixed(4, 4),
        out_proj_bias=fixed(4),
        training=False,
    )
    padding = torch.tensor([[False, False, True, False, True], [False] * 5])
    options: list[Arguments] = [{}, dict(need_weights=False), dict(key_padding_mask=padding), dict(attn_mask=~mask)]
    yield "multi_head_attention", [{**projected, **one} for one in options]


def _composites() -> Iterator[tuple[str, list[Arguments]]]:
    for name in ("rsub", "add_scaled", "sub_scaled"):
        scaled = [two(M, M, alpha=alpha) for alpha in (1, -0.5, 0, 2)]
        yield name, [*scaled, two(M, 1, alpha=-0.5), two(M, fixed(6), alpha=2)]
    yield "glu", only(M, *each("dim", -1, 0, 1))
    yield "type", only(M, *each("dtype", torch.float64, torch.float32, "torch.DoubleTensor"))
    yield "where_method", [dict(input=M, condition=BOOLS, other=other) for other in (M, -1.0, 0, fixed(4, 6))]
    factors = [dict(beta=beta, alpha=alpha) for beta, alpha in ((1, 1), (-1, 1), (1, -0.5), (0, 2))]
    yield "addmm", [dict(input=V(2, 4), mat1=V(2, 3), mat2=V(3, 4), **one) for one in factors]
    yield "baddbmm", [dict(input=V(2, 2, 4), batch1=V(2, 2, 3), batch2=V(2, 3, 4), **one) for one in factors]
    yield "addcmul", [dict(input=M, tensor1=M, tensor2=M, value=value) for value in (1, -0.5, 0)]
    yield "var_mean", SPREADS
    for name in ("max", "min"):
        yield (
            name,
            [
                *of(M, dict(dim=1), dict(dim=0, keepdim=True), dict(other=M), dict(other=fixed(6))),
                *of(V(4, 1), dict(dim=1)),
            ],
        )
    ways = [dict(p=p, dim=dim) for p, dim in ((2.0, 1), (1.0, 1), (2.0, 0), (0.0, 1), (INF, 1), (-INF, 1), (3.0, -1))]
    yield "normalize_vectors", [*only(M, *ways), *only(M, dict(eps=10.0))]
    yield "cosine_similarity", [dict(x1=M, x2=M, dim=dim) for dim in (0, 1, -1)]


def _activations() -> Iterator[tuple[str, list[Arguments]]]:
    plain = "relu relu6 selu silu mish hardswish hardsigmoid logsigmoid softsign tanhshrink tanh sigmoid"
    plain += " exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal square abs sin cos tan atan erf"
    for name in plain.split():
        yield name, of(M, {"input": V(2, 3, 4)})
    yield "leaky_relu", of(M, *each("negative_slope", 0.2, 0.0, -0.5, 2.0))
    yield "elu", of(M, *each("alpha", 2.0, -1.0, 0.0))
    yield "celu", of(M, *each("alpha", 2.0, -1.5))
    yield "gelu", of(M, *each("approximate", "tanh"))
    bounds = [(-1.0, 1.0), (0.0, 1.0), (0.25, 2.0), (-2.0, -0.5), (-1.0, 0.0)]
    yield "hardtanh", only(M, *(dict(min_val=low, max_val=high) for low, high in bounds))
    curves = [(1.0, 20.0), (-2.0, 20.0), (1.0, -20.0), (-1.0, -1.0), (2.0, 0.0), (0.5, 1.0)]
    yield "softplus", only(M, *(dict(beta=beta, threshold=threshold) for beta, threshold in curves))
    yield "softshrink", of(M, *each("lambd", 0.3, 0.0))
    yield "hardshrink", of(M, *each("lambd", 0.3, 0.0, -0.3))
    limits = [(0.0, 0.0), (0.1, -1.0), (-1.0, 0.5), (0.5, 2.0), (0.1, 0.0), (-1.0, -3.0), (-1.0, 0.0)]
    yield "threshold", only(M, *(dict(threshold=threshold, value=value) for threshold, value in limits))
    slopes = (torch.tensor([0.25]), torch.tensor([-0.5]), torch.tensor([-0.5, 0.25, 0.0, -2.0, 1.0, 2.0]))
    yield (
        "prelu",
        [dict(input=M, weight=slope.double()) for slope in slopes[2:]]
        + only(CUBE, *each("weight", slopes[1].double()))
        + only(V(4, 5), *each("weight", slopes[0].double())),
    )
    low = fixed(6, scale=1.0)
    edges: list[Any] = [(None, 1.0), (-1.0, None), (0, None), (0.5, None), (None, -0.5)]
    edges += [(-1.0, 2.0), (0.5, -0.5), (2.0, 1.0)]
    edges += [(0.0, 1.0), (low, None), (None, low), (low.abs() - 0.3, low), (low.abs(), None), (None, 0)]
    yield "clamp", only(M, *(dict(min=minimum, max=maximum) for minimum, maximum in edges))
    yield "clamp_min", only(M, *each("min", 0, 0.5, -0.5, low))
    yield "clamp_max", only(M, *each("max", 0, 0.5, -0.5, low))
    yield "rrelu", of(M, dict(lower=-1.0, upper=-0.5), dict(lower=0.0, upper=0.0))
    powers = (1, 2, 3, 4, 0, -1, -2, 0.5, -0.5, 2.0, 1.5)
    yield (
        "pow",
        [
            *only(M, *each("exponent", *powers, fixed(6).abs(), M)),
            *({"input": base, "exponent": M} for base in (2, 0.5)),
        ],
    )


def _softmax_and_embedding() -> Iterator[tuple[str, list[Arguments]]]:
    for name in ("softmax", "log_softmax", "safe_softmax"):
        yield name, [*only(M, *each("dim", -1, 0), dict(dim=1, dtype=torch.float64)), *only(CUBE, dict(dim=1))]
    weights: list[Arguments] = [{}, dict(padding_idx=2), dict(scale_grad_by_freq=True)]
    bag: list[Any] = [dict(mode=mode, padding_idx=padding) for mode in ("sum", "mean", "max") for padding in (None, 2)]
    yield "embedding_bag", [dict(input=TOKENS, weight=V(7, 4), **one) for one in bag]
    yield "embedding", [dict(input=TOKENS, weight=V(7, 4), **one) for one in weights]


def _recurrent() -> Iterator[tuple[str, list[Arguments]]]:
    for kind, gates in (("lstm", 4), ("gru", 3), ("rnn_tanh", 1), ("rnn_relu", 1)):
        states = 2 if kind == "lstm" else 1

        def start(*shape: int, states: int = states) -> Any:
            return [V(*shape)] * states if states > 1 else V(*shape)

        def weights(inputs: int, biased: bool, gates: int = gates) -> list[Tensor]:
            found = [fixed(4 * gates, inputs), fixed(4 * gates, 4)]
            return [*found, fixed(4 * gates), -fixed(4 * gates)] if biased else found

        matrices = dict(w_ih=fixed(4 * gates, 3), w_hh=fixed(4 * gates, 4))
        cell = dict(input=V(2, 3), hx=start(2, 4), **matrices)
        yield f"{kind}_cell", [cell, {**cell, "b_ih": fixed(4 * gates), "b_hh": -fixed(4 * gates)}]
        common = dict(dropout=0.0, train=False)
        one = dict(has_biases=True, num_layers=1, bidirectional=False, batch_first=False, **common)
        deep = dict(has_biases=False, num_layers=2, bidirectional=False, batch_first=True, **common)
        both = dict(has_biases=True, num_layers=1, bidirectional=True, batch_first=False, **common)
        yield (
            kind,
            [
                dict(input=V(5, 2, 3), hx=start(1, 2, 4), params=weights(3, True), **one),
                dict(input=V(2, 5, 3), hx=start(2, 2, 4), params=weights(3, False) + weights(4, False), **deep),
                dict(input=V(5, 2, 3), hx=start(2, 2, 4), params=weights(3, True) * 2, **both),
            ],
        )


ROWS: Arguments = dict(dim=-1, keepdim=True)
SPREADS = [
    *of(M, *each("dim", 1, 0, (0, 1)), *(dict(dim=1, correction=number) for number in (0, 1, 2, 0.5))),
    *only(M, dict(dim=1, unbiased=False), dict(dim=1, unbiased=True, keepdim=True), dict(correction=0), dict(dim=())),
    *only(IMAGE, dict(dim=(2, 3)), dict(dim=1, keepdim=True)),
]


def _pooling() -> Iterator[tuple[str, list[Arguments]]]:
    for n in (1, 2, 3):
        image = V(2, 2, *(6,) * n)
        yield (
            f"max_pool{n}d",
            only(
                image,
                dict(kernel_size=2),
                dict(kernel_size=3, stride=1, padding=1),
                dict(kernel_size=2, stride=1, dilation=2),
                dict(kernel_size=4, stride=3, ceil_mode=True),
                dict(kernel_size=1),
            ),
        )
        for kind in ("max", "avg"):
            yield f"adaptive_{kind}_pool{n}d", only(image, *each("output_size", 1, 4, 6))
        windows = [
            dict(kernel_size=2),
            dict(kernel_size=3, stride=1, padding=1),
            dict(kernel_size=3, stride=1, padding=1, count_include_pad=False),
            dict(kernel_size=4, stride=3, ceil_mode=True),
            dict(kernel_size=1),
        ]
        divided = [dict(kernel_size=2, divisor_override=divisor) for divisor in (-2, 5)] if n > 1 else []
        yield f"avg_pool{n}d", only(image, *windows, *divided)
    yield "amax", [*of(M, *each("dim", 1, 0, (0, 1)), dict(dim=1, keepdim=True)), *only(V(4, 1), dict(dim=1))]
    reductions = [*each("dim", 1, 0, (0, 1), ()), dict(dim=1, keepdim=True), ROWS]
    for name in ("mean", "sum"):
        yield name, [*of(M, *reductions, dict(dim=1, dtype=torch.float64)), *only(V(4, 1), dict(dim=1))]
    orders = [dict(ord=order, dim=1) for order in (2, 1, 0, INF, -INF, 3, 0.5, -1, 2.5, -2)]
    whole = each("ord", 1, 0, INF, -INF, 3)
    yield "vector_norm", [*of(M, *orders, *whole, dict(dim=(0, 1)), dict(dim=1, keepdim=True)), *_single_norms()]
    for name in ("var", "std"):
        yield name, [*SPREADS, *of(M, ROWS)]
    bags = [dict(offsets=torch.tensor(starts)) for starts in ([0, 1, 3], [0], [0, 2, 2])]
    bags.append(dict(offsets=torch.tensor([0, 1, 4]), include_last_offset=True))  # type: ignore[dict-item]
    yield "sum_bags", [*only(M, *bags), *only(V(4), *bags)]
    yield "largest_in_bags", only(M, *bags)
    yield "bag_of_rows", only(M, *bags[:3])
    yield "cumsum", [*only(M, *each("dim", 1, 0, -1)), *only(V(4, 1), dict(dim=1))]
    yield (
        "fold",
        [
            *only(V(2, 12, 4), dict(output_size=(4, 4), kernel_size=2, stride=2)),
            *only(
                V(2, 12, 9),
                dict(output_size=(4, 4), kernel_size=2),
                dict(output_size=(5, 5), kernel_size=2, dilation=2),
            ),
            *only(V(2, 12, 16), dict(output_size=(3, 3), kernel_size=2, padding=1)),
            *only(V(2, 3, 16), dict(output_size=(4, 4), kernel_size=1)),
        ],
    )
    nearest: list[Arguments] = [dict(scale_factor=1.5), dict(size=6)]
    nearest += [dict(size=7, mode="nearest-exact"), dict(size=4, mode="area")]
    smooth: list[Arguments] = [dict(scale_factor=0.7, mode="bilinear")]
    smooth += [dict(size=9, mode="bilinear", align_corners=True)]
    smooth += [dict(size=4, mode="bilinear", antialias=True), dict(size=6, mode="bilinear")]
    cubic: list[Arguments] = [dict(size=9, mode="bicubic"), dict(size=4, mode="bicubic", antialias=True)]
    others = [
        *only(V(2, 3, 6), dict(scale_factor=1.5, mode="linear")),
        *only(V(1, 2, 4, 4, 4), dict(size=5, mode="trilinear")),
    ]
    yield "interpolate", [*only(IMAGE, *nearest, *smooth, *cubic), *others]


def _single_norms() -> list[Arguments]:
    """Norms of one element each."""
    return only(V(4, 1), *(dict(ord=order, dim=1) for order in (2, 1, 0, INF, -INF)))


def _normalization() -> Iterator[tuple[str, list[Arguments]]]:
    statistics = dict(running_mean=fixed(4), running_var=fixed(4) ** 2 + 0.5)
    affine = dict(weight=fixed(4, scale=1.0), bias=fixed(4))
    yield "batch_norm", [*only(IMAGE, statistics, {**statistics, **affine}), *only(V(3, 4), {**statistics, **affine})]
    yield "instance_norm", of(IMAGE, affine, dict(**statistics, use_input_stats=False), dict(eps=0.5))
    last = dict(weight=fixed(6, scale=1.0), bias=fixed(6))
    yield (
        "layer_norm",
        only(M, dict(normalized_shape=(6,)), dict(normalized_shape=(6,), **last), dict(normalized_shape=(4, 6))),
    )
    groups: list[Arguments] = [dict(num_groups=2), dict(num_groups=4, **affine), dict(num_groups=1, **affine)]
    yield "group_norm", only(IMAGE, *groups)
    roots = [dict(normalized_shape=(6,), **one) for one in ({}, dict(weight=last["weight"]), dict(eps=0.1))]
    yield "rms_norm", only(M, *roots)
    neighbours: list[Arguments] = [dict(size=2), dict(size=3, alpha=0.5, beta=0.5, k=2.0)]
    neighbours += [dict(size=2, alpha=-0.01), dict(size=1)]
    yield "local_response_norm", only(IMAGE, *neighbours)
    defaults: Arguments = dict(alpha=1e-4, beta=0.75, k=1.0)
    yield "local_response", only(IMAGE, *({**defaults, **each} for each in neighbours))


def _views() -> Iterator[tuple[str, list[Arguments]]]:
    yield (
        "reshape",
        [*only(M, *each("shape", (24,), (2, 2, 6), (-1, 8), (4, 6))), *only(CUBE, *each("shape", (6, 4), (2, 12)))],
    )
    for name, shape in (("reshape_as", (2, 12)), ("view_as", (1, 4, 6))):
        yield name, [dict(input=M, other=fixed(*shape)) for shape in (shape, (4, 6))]
    yield "flatten", [*of(CUBE, dict(start_dim=1), dict(end_dim=1), dict(start_dim=1, end_dim=1)), {"input": V(3)}]
    yield "t", of(M, {"input": V(3)})
    yield "unflatten", only(M, dict(dim=1, sizes=(2, 3)), dict(dim=-1, sizes=(-1, 2)), dict(dim=0, sizes=(4,)))
    yield "squeeze", [*of(V(4, 1, 6), dict(dim=1), dict(dim=(1, 2))), *only(M, dict(dim=0))]
    yield "unsqueeze", only(M, *each("dim", 0, 1, -1))
    yield "permute", [*only(CUBE, *each("dims", (2, 0, 1), (0, 1, 2))), *only(M, dict(dims=(1, 0)))]
    yield "transpose", only(CUBE, dict(dim0=1, dim1=2), dict(dim0=0, dim1=0))
    yield "movedim", only(CUBE, dict(source=0, destination=2), dict(source=(0, 1), destination=(1, 0)))
    yield "expand", [*only(V(4, 1), *each("size", (4, 3), (-1, 2), (2, 4, 1))), *only(M, dict(size=(4, 6)))]
    yield "expand_as", [dict(input=V(4, 1), other=fixed(4, 3)), dict(input=M, other=fixed(4, 6))]
    yield "select", only(M, dict(dim=0, index=1), dict(dim=1, index=-1))
    yield "narrow", only(M, dict(dim=1, start=1, length=3), dict(dim=0, start=0, length=4))
    basic: list[Any] = [
        0,
        -1,
        slice(1, 3),
        (slice(None), 2),
        (Ellipsis, None),
        (slice(None), slice(None, None, 2)),
        None,
        ...,
    ]
    chosen: list[Any] = [
        torch.tensor([0, 2, 2]),
        (slice(None), torch.tensor([1, 0])),
        [1, 3],
        BOOLS,
        (slice(None), [0, 5]),
    ]
    yield "getitem", only(M, *each("index", *basic, *chosen))
    yield (
        "windows",
        only(
            M, dict(dimension=1, size=3, step=1), dict(dimension=1, size=2, step=2), dict(dimension=0, size=1, step=1)
        ),
    )
    yield "diagonal", [*of(V(4, 4), dict(offset=1)), *only(CUBE, dict(dim1=1, dim2=2), dict(offset=-1, dim1=2, dim2=0))]
    yield "chunk", [*of(M, dict(chunks=2))[1:], *only(M, dict(chunks=3, dim=1), dict(chunks=1))]
    yield "split", only(M, *each("split_size_or_sections", 2, 4, [1, 3]), dict(split_size_or_sections=[2, 4], dim=1))
    yield "unbind", of(M, dict(dim=1))
    yield "from_local", only(M, dict(like=fixed(4, 6), layout=("replicate",)), dict(like=fixed(4, 6), layout=(0,)))
    yield "redistribute", only(M, dict(layout=("replicate",)), dict(layout=(1,)), dict(layout=()))
    yield "to_local", only(M, {})
    yield (
        "expect_dims",
        [*only(M, dict(dims=2, why="two dimensions are needed")), *only(CUBE, dict(dims=3, why="three"))],
    )


def _copies() -> Iterator[tuple[str, list[Arguments]]]:
    yield "repeat", only(M, *each("repeats", (1, 1), (2, 1), (2, 1, 3), (1, 1, 1)))
    yield "tile", only(M, *each("dims", (1, 1), (1,), (2,), (2, 1, 3)))
    yield (
        "repeat_interleave",
        only(
            M,
            dict(repeats=2),
            dict(repeats=1, dim=1),
            dict(repeats=3, dim=0),
            dict(repeats=torch.tensor([1, 0, 2, 1]), dim=0),
        ),
    )
    yield "flip", only(M, *each("dims", (0,), (0, 1), ()))
    yield "roll", only(M, dict(shifts=1), dict(shifts=0), dict(shifts=2, dims=1), dict(shifts=(1, -1), dims=(0, 1)))
    yield "index_select", only(M, dict(dim=0, index=torch.tensor([0, 3, 3])), dict(dim=1, index=torch.arange(6)))
    yield "gather", only(M, dict(dim=0, index=ALONG), dict(dim=1, index=ALONG))
    amounts: list[Any] = [(1, 2), (1, 0, 0, 2), (0, 0), (0, 0, 0, 0), (-1, 2), (-1, -1)]
    filled = [dict(pad=(1, 1), value=value) for value in (-1.0, 0.0, 2.0)] + [
        dict(pad=(0, 0), value=-1.0),
        dict(pad=(-1, 0), value=-1.0),
    ]
    moved = [
        dict(pad=pad, mode=mode)
        for mode in ("reflect", "replicate", "circular")
        for pad in ((1, 2, 2, 1), (0, 0, 0, 0))
    ]
    yield "pad", [*only(M, *each("pad", *amounts), *filled), *only(IMAGE, *moved)]
    yield "pixel_shuffle", only(IMAGE, *each("upscale_factor", 2, 1))
    yield "pixel_unshuffle", only(IMAGE, *each("downscale_factor", 2, 1, 3))
    yield "channel_shuffle", only(IMAGE, *each("groups", 1, 2, 4))
    casts: list[Arguments] = [
        dict(args=(torch.float64,)),
        dict(args=("cpu",)),
        dict(args=("cpu", torch.float64)),
        dict(args=(torch.float32,)),
        dict(args=(fixed(1),)),
    ]
    options = [dict(dtype=torch.float64), dict(dtype=torch.float64, copy=True), dict(memory_format=torch.channels_last)]
    yield "to", [*only(M, *casts), *only(IMAGE, *(dict(kwargs=one) for one in options))]
    for name in "float double half bfloat16 cpu long int short char byte bool".split():
        yield name, [*of(M), *only(IMAGE, {}, dict(memory_format=torch.channels_last))]
    holes: list[Any] = [-1, 1, 0.0, -INF, torch.tensor(-2.0, dtype=torch.float64)]
    yield (
        "masked_fill",
        only(M, *(dict(mask=BOOLS, value=value) for value in holes), dict(mask=BOOLS.flatten()[:4, None], value=-1)),
    )
    yield (
        "unfold",
        only(
            IMAGE,
            dict(kernel_size=2),
            dict(kernel_size=3, padding=1, stride=2),
            dict(kernel_size=2, dilation=2),
            dict(kernel_size=1),
        ),
    )
    gaps = [
        {},
        dict(nan=-1.0),
        dict(nan=1.0),
        dict(posinf=-1.0),
        dict(neginf=-2.0),
        dict(nan=0.0, posinf=1.0, neginf=1.0),
    ]
    yield "nan_to_num", only(V(4, 6, special=(NAN, INF, -INF)), *gaps) + only(M, *gaps[:2])
    yield "repeat_heads", [dict(input=V(2, 2, 3, 4), like=fixed(2, heads, 3, 4)) for heads in (4, 2)]
    for name in ("tril", "triu"):
        yield name, of(M, *each("diagonal", 1, -1, 9, -9))
    yield (
        "take_along_dim",
        [
            *only(M, dict(indices=ALONG, dim=0)),
            *only(M, dict(indices=torch.tensor([[0], [5], [2], [2]]), dim=1)),
            *only(V(8), dict(indices=torch.tensor([0, 5, 5]))),
        ],
    )
    yield "topk", only(M, dict(k=2), dict(k=1, dim=0), dict(k=3, largest=False), dict(k=6, sorted=False))
    yield "sort", of(M, dict(dim=0), dict(descending=True), dict(stable=True))


def _several() -> Iterator[tuple[str, list[Arguments]]]:
    others: list[Any] = [M, -1.0, 1.0, 0, fixed(4, 6), V(6)]
    yield (
        "where",
        [dict(condition=BOOLS, input=M, other=other) for other in others]
        + [dict(condition=BOOLS, input=-1.0, other=M), dict(condition=torch.ones(4, 6).bool(), input=M, other=M)],
    )
    yield "mask_scores", [dict(input=M, mask=mask) for mask in (BOOLS, BOOLS[0], fixed(6), V(4, 6))]
    for name in ("maximum", "minimum"):
        yield name, [two(M, M), two(M, V(6)), two(M, fixed(6))]
    for name in ("cat", "stack"):
        joined = [[M], [M, M], [M, fixed(4, 6), M]]
        yield name, [dict(tensors=tensors, dim=dim) for tensors in joined for dim in (0, 1)]
    for name in ("hstack", "vstack", "dstack"):
        yield name, [dict(tensors=tensors) for tensors in ([M], [M, M], [M, fixed(4, 6)])]
    assigned: list[tuple[Any, Any]] = [
        (0, 1.0),
        (0, -1.0),
        ((slice(None), 1), V(4)),
        (..., M),
        (slice(0, 2), fixed(6)),
        (BOOLS, -1.0),
        (torch.tensor([0, 2]), V(2, 6)),
    ]
    yield "setitem", only(M, *(dict(index=index, value=value) for index, value in assigned))


def _identities() -> Iterator[tuple[str, list[Arguments]]]:
    off = dict(training=False)
    for name in ("dropout", "alpha_dropout", "feature_alpha_dropout"):
        yield name, only(IMAGE, off, dict(p=0.0, **off))
    for n, place in ((1, V(2, 4, 6)), (2, IMAGE), (3, V(2, 2, 3, 3, 3))):
        yield f"dropout{n}d", only(place, off, dict(p=0.0, **off))
    yield (
        "stochastic_depth",
        only(M, *(dict(p=p, mode=mode, training=False) for p, mode in ((0.5, "row"), (0.0, "batch")))),
    )
    for name in ("contiguous", "clone"):
        yield name, [*of(M), *of(IMAGE, dict(memory_format=torch.channels_last))]
    for name in ("detach", "positive"):
        yield name, of(M, {"input": CUBE})


def _without_relevance() -> Iterator[tuple[str, list[Arguments]]]:
    yield "whole", only(M, {})
    yield "getattr", only(M, *each("name", "shape", "dtype", "ndim"))
    for name in "eq ne lt le gt ge".split():
        yield name, [two(M, 0), two(M, M), two(M, fixed(6))]
    for name in ("and_", "or_", "xor"):
        yield name, [two(BOOLS, BOOLS.flip(0)), two(TOKENS, 1)]
    yield "invert", [{"input": BOOLS}, {"input": TOKENS}]
    yield "not_", [{"input": True}, {"input": V(1)}]
    for name in ("is_", "is_not"):
        yield name, [two(M, None), two(None, None)]
    yield "contains", [two((1, 2), 2), two(M, 0.0)]
    yield "size", of(CUBE, dict(dim=1), dict(dim=-1))
    for name in ("argmax", "argmin"):
        yield name, of(M, dict(dim=1), dict(dim=0, keepdim=True))
    for name in "dim numel is_floating_point is_complex element_size isnan isinf isfinite logical_not".split():
        yield name, of(M, {"input": V(4, 6, special=(NAN, INF))})
    for name in ("zeros_like", "ones_like", "empty_like"):
        yield name, of(M, dict(dtype=torch.float32))
    yield "full_like", only(M, *each("fill_value", -1.0, 0.0, 2), dict(fill_value=1.0, dtype=torch.float32))
    yield "initial_state", only(CUBE, dict(count=1, features=5, batch_dim=0), dict(count=2, features=3, batch_dim=1))
    yield (
        "attention_mask",
        only(BOOLS, dict(heads=2)) + only(M, dict(heads=2)) + only(BOOLS.unflatten(0, (4, 1)), dict(heads=2)),
    )
    yield "padding_mask", [{"input": BOOLS}, {"input": M}]
    pairs: list[tuple[Any, Any]] = [(BOOLS, BOOLS.flip(0)), (BOOLS, M), (M, BOOLS), (M, M)]
    yield "both_masks", [dict(input=first, second=second) for first, second in pairs]
    yield "attention_scale", of(M, {"input": CUBE})
    positions = (torch.tensor([[0, 2]]), torch.tensor([[2], [0]]), None)
    yield "at_positions", [dict(input=V(2, 3, 4), positions=each) for each in positions]
    ends = torch.tensor([3, 1])
    for name in ("reversed_index", "last_index", "is_padding"):
        yield name, [dict(input=CUBE, lengths=ends)]
    yield "longest", [dict(input=V(3))]
    yield "combination_places", [dict(input=V(4), r=2, with_replacement=False)]
    yield "causal_mask", [dict(input=V(3, 4), key=V(5, 4)), dict(input=V(2, 3, 4), key=V(2, 3, 4))]
    yield "argsort", of(M, dict(dim=0), dict(descending=True))
    yield "new_full", only(M, dict(size=(2, 3), fill_value=1.5), dict(size=(), fill_value=-1, dtype=torch.float32))
    for name in ("new_zeros", "new_ones", "new_empty"):
        yield name, only(M, dict(size=(2, 3)), dict(size=(), dtype=torch.float32))


# They have no kernel for float64 on a CPU, or belong to transformers: tests/relevance/test_grouped_products.py. The
# second result of attention has no relevance: tests/attention.
WITHOUT_SAMPLES = ("attention", "grouped_mm", "grouped_mm_fallback")
SAMPLED = {name: operation for name, operation in CANONICAL.operations.items() if name not in WITHOUT_SAMPLES}

SETTINGS: dict[str, list[Arguments]] = {
    **TRANSFORMS,
    **SELECTIONS,
    **FUNCTIONS,
    **MATRIX_FUNCTIONS,
    **{
        name: given
        for group in (
            _linear,
            _arithmetic,
            _attention,
            _composites,
            _activations,
            _softmax_and_embedding,
            _recurrent,
            _pooling,
            _normalization,
            _views,
            _copies,
            _several,
            _identities,
            _without_relevance,
        )
        for name, given in group()
    },
}

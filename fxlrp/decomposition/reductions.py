"""Maxima, statistics, normalized vectors, distances and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from fxlrp.decomposition.builder import Builder, Made
from fxlrp.vocabulary import CANONICAL


def _max(build: Builder, input: Any, dim: Any, keepdim: bool, other: Any) -> Made:
    return _extremum(build, "maximum", input, dim, keepdim, other)


def _min(build: Builder, input: Any, dim: Any, keepdim: bool, other: Any) -> Made:
    return _extremum(build, "minimum", input, dim, keepdim, other)


def _extremum(build: Builder, name: str, input: Any, dim: Any, keepdim: bool, other: Any) -> Made:
    other = dim if isinstance(dim, fx.Node) else other
    if other is not None:
        return build(name, input, other)
    negative = name == "minimum"
    sought = build("neg", input) if negative else input
    largest = build("amax", sought) if dim is None else build("amax", sought, dim=dim, keepdim=keepdim)
    value = build("neg", largest) if negative else largest
    return value if dim is None else (value, build("argmax", sought, dim=dim, keepdim=keepdim))


def _var_mean(build: Builder, input: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Made:
    return _with_mean(build, "var", input, dim, unbiased, keepdim, correction)


def _with_mean(build: Builder, name: str, input: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Made:
    how = {"unbiased": unbiased, "correction": correction}
    given = {name: value for name, value in how.items() if value is not None}
    over = {} if dim is None else {"dim": dim, "keepdim": keepdim}
    return build(name, input, **over, **given), build("mean", input, **over)


def _normalize_vectors(build: Builder, input: Any, p: float, dim: Any, eps: float, out: None) -> fx.Node:
    norm = build("vector_norm", input, ord=p, dim=dim, keepdim=True)
    return build("div", input, build("clamp_min", norm, eps))


def _cosine_similarity(build: Builder, x1: Any, x2: Any, dim: int, eps: float) -> fx.Node:
    directions = [
        build("div", each, build("clamp_min", build("vector_norm", each, dim=dim, keepdim=True), eps))
        for each in (x1, x2)
    ]
    return build("sum", build("mul", *directions), dim=dim)


def _std_mean(build: Builder, input: Any, dim: Any, unbiased: Any, keepdim: bool, correction: Any) -> Made:
    return _with_mean(build, "std", input, dim, unbiased, keepdim, correction)


def _median(name: str) -> Callable[..., Made]:
    """The median of a dimension, or of all elements."""

    def decomposed(build: Builder, input: Any, dim: Any, keepdim: bool) -> Made:
        if dim is None:
            return build("getitem", build(name, build("flatten", input), 0), 0)
        both = build(name, input, dim, keepdim=keepdim)
        return build("getitem", both, 0), build("getitem", both, 1)

    return decomposed


def _dist(build: Builder, input: Any, other: Any, p: float) -> fx.Node:
    return build("vector_norm", build("sub", input, other), ord=p)


def _norm(build: Builder, input: Any, p: Any, dim: Any, keepdim: bool, out: None, dtype: Any) -> fx.Node:
    """``torch.norm``: of vectors but for the nuclear norm; the Frobenius norm is that of all elements."""
    value = input if dtype is None else build("to", input, dtype)
    if p == "nuc":
        return build("linalg_matrix_norm", value, "nuc", (-2, -1) if dim is None else dim, keepdim)
    return build("vector_norm", value, ord=2.0 if p in ("fro", None) else p, dim=dim, keepdim=keepdim)


def _pairwise_distance(build: Builder, x1: Any, x2: Any, p: float, eps: float, keepdim: bool) -> fx.Node:
    difference = build("add", build("sub", x1, x2), eps)
    return build("vector_norm", difference, ord=p, dim=-1, keepdim=keepdim)


def _cosine_embedding_loss(
    build: Builder, input1: Any, input2: Any, target: Any, margin: float, reduction: str, **given: Any
) -> fx.Node:
    """``1 - cos`` for pairs that belong together, else ``max(0, cos - margin)``."""
    cosine = _cosine_similarity(build, input1, input2, -1, 1e-8)
    apart = build("relu", build("sub", cosine, margin))
    losses = build("where", build("eq", target, 1), build("sub", 1.0, cosine), apart)
    return losses if reduction == "none" else build(reduction, losses)


def _multilabel_soft_margin_loss(
    build: Builder, input: Any, target: Any, weight: Any, reduction: str, **given: Any
) -> fx.Node:
    """The mean over the classes of the binary cross entropies of the logits."""
    of_members = build("mul", target, build("logsigmoid", input))
    of_others = build("mul", build("sub", 1, target), build("logsigmoid", build("neg", input)))
    losses = build("neg", build("add", of_members, of_others))
    weighted = losses if weight is None else build("mul", losses, weight)
    means = build("div", build("sum", weighted, dim=-1), build("size", input, -1))
    return means if reduction == "none" else build(reduction, means)


def _combinations(build: Builder, input: Any, r: int, with_replacement: bool) -> fx.Node | None:
    """The elements at constant places; none if nothing is taken."""
    return build("getitem", input, build("combination_places", input, r, with_replacement)) if r > 0 else None


def _broadcast_tensors(build: Builder, tensors: Any) -> Made:
    """Each tensor by itself: the result of a constant one is constant."""
    return tuple(
        build("broadcast_among", tensor, [*tensors[:index], *tensors[index + 1 :]])
        for index, tensor in enumerate(tensors)
    )


def _max_pool(dims: int) -> Callable[..., Made | None]:
    """Max pooling that also returns indices."""

    def decomposed(build: Builder, return_indices: bool, **given: Any) -> Made | None:
        if not return_indices:
            return None
        both = build(f"max_pool{dims}d_with_indices", **given)
        return build("getitem", both, 0), build("getitem", both, 1)

    return decomposed


def _current(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a loss without the deprecated ones."""
    return {name: value for name, value in given.items() if name not in ("size_average", "reduce")}


def _loss(name: str) -> Callable[..., Made | None]:
    """An elementwise loss with a reduction: the losses of the elements, then their mean or sum."""

    def decomposed(build: Builder, reduction: str, **given: Any) -> Made | None:
        if reduction == "none":
            return None
        losses = build(name, reduction="none", **_current(given))
        if reduction != "batchmean":
            return build(reduction, losses)
        return build("div", build("sum", losses), build("size", given["input"], 0))

    return decomposed


def _cross_entropy(build: Builder, input: Any, target: Any, **given: Any) -> fx.Node:
    """The log-softmax, and the cross entropy that is linear in it."""
    return build("expected_log_loss", build("log_softmax", input, 1), target, **_current(given))


def _reduce(product: str, source: str) -> Callable[..., Made | None]:
    """A reduction by product, which is not linear."""

    def decomposed(build: Builder, reduce: str, **given: Any) -> Made | None:
        return build(product, source=given.pop(source), **given) if reduce == "prod" else None

    return decomposed


_ELEMENTWISE_LOSSES = tuple(
    name
    for name, operation in CANONICAL.operations.items()
    if operation.elementwise and "reduction" in operation.parameters
)

DECOMPOSITIONS: Mapping[str, Callable[..., Made | None]] = {
    "max": _max,
    "min": _min,
    "median": _median("median_of"),
    "nanmedian": _median("nanmedian_of"),
    "var_mean": _var_mean,
    "std_mean": _std_mean,
    "normalize_vectors": _normalize_vectors,
    "cosine_similarity": _cosine_similarity,
    "cosine_embedding_loss": _cosine_embedding_loss,
    "multilabel_soft_margin_loss": _multilabel_soft_margin_loss,
    "broadcast_tensors": _broadcast_tensors,
    "combinations": _combinations,
    "dist": _dist,
    "norm_of": _norm,
    "pairwise_distance": _pairwise_distance,
    "cross_entropy": _cross_entropy,
    "scatter_reduce": _reduce("scatter_product", "src"),
    "index_reduce": _reduce("index_product", "source"),
    **{f"max_pool{n}d": _max_pool(n) for n in (1, 2, 3)},
    **{name: _loss(name) for name in _ELEMENTWISE_LOSSES},
}

"""BiLRP: the interactions of two inputs that make their embeddings similar (Eberle et al., 2022)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from fxlrp.arguments import flag, mapping, whole
from fxlrp.concepts.channels import check_explainer
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.targets import each

Pool: TypeAlias = "int | Callable[[Tensor], Tensor] | None"


def similarity(
    explain: Explainer,
    x: Tensor | Mapping[str, Any],
    y: Tensor | Mapping[str, Any],
    *,
    cosine: bool = False,
    pool: Pool = None,
    chunk: int = 16,
    **question: Any,
) -> Tensor:
    """Explain the similarity of two inputs by the interactions of their parts (BiLRP; Eberle et al., 2022).

    The relevance of a pair of elements is the sum over the features ``m`` of the embedding of the products of their
    relevances: ``R_ij = sum_m R_i^m(x) R_j^m(y)``. All pairs add up to the dot product of the embeddings, except for
    what biases, stabilizers and rules that do not conserve relevance absorb.

    Args:
        explain: The explainer of an encoder, whose output has the shape ``(batch, features)``.
        x: The first input, ``(batch, ...)``, or a mapping from the names of the inputs to them, of which one is
            explained.
        y: The second input, of the same batch size.
        cosine: Whether to explain the cosine similarity. The norms of the embeddings are constants.
        pool: Adds up the relevance of parts, because the result has an element for each pair of them: the width of the
            squares of pixels of an image, over whose channels it adds up, too, or of the spans of tokens; or a function
            from relevance, ``(count, ...)``, to that of parts. None keeps every element.
        chunk: The number of features that are explained in one call.
        question: Other arguments of the explainer, such as ``at=`` for parts inside the encoder.

    Returns:
        The relevance of the pairs, of the shape ``(batch, parts of x ..., parts of y ...)``.

    Raises:
        InputError: The output is not an embedding, the batches differ, or an argument does not fit.

    Example:
        >>> import torch, fxlrp
        >>> encoder = torch.nn.Sequential(torch.nn.Linear(4, 8, bias=False), torch.nn.ReLU()).eval()
        >>> explain = fxlrp.compile(encoder, "epsilon")
        >>> x, y = torch.rand(2, 4), torch.rand(2, 4)
        >>> pairs = fxlrp.similarity(explain, x, y)
        >>> pairs.shape
        torch.Size([2, 4, 4])
        >>> torch.allclose(pairs.sum((1, 2)), (encoder(x) * encoder(y)).sum(1), atol=1e-4)
        True
    """
    check_explainer(explain)
    flag("cosine", cosine)
    chunk = whole("chunk", chunk)
    if pool is not None and (not callable(pool) or isinstance(pool, Tensor)):
        pool = whole("pool", pool)
    pairs = zip(*(_by_feature(explain, given, pool, chunk, question) for given in (x, y)), strict=True)
    total: Tensor | None = None
    for (first, of_first), (second, of_second) in pairs:
        if of_first.shape != of_second.shape:
            raise InputError(
                f"the embeddings have the shapes {tuple(of_first.shape)} and {tuple(of_second.shape)}: give x and y "
                "with equal numbers of samples"
            )
        products = torch.einsum("mbi,mbj->bij", first.flatten(2), second.flatten(2))
        total = products if total is None else total + products
        shape = (len(of_first), *first.shape[2:], *second.shape[2:])
        norms = (torch.linalg.vector_norm(of_first, dim=1) * torch.linalg.vector_norm(of_second, dim=1)).reshape(
            -1, 1, 1
        )
    if total is None:
        raise InputError("the embedding has no features")
    return (total / norms if cosine else total).reshape(shape)


def _by_feature(
    explain: Explainer, given: Tensor | Mapping[str, Any], pool: Pool, chunk: int, question: Mapping[str, Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The pooled relevance for chunks of features, ``(features, batch, parts ...)``, each with the embedding."""
    by_name = isinstance(given, Mapping)
    args, named = ((), dict(mapping("x", given, "the names of inputs to them"))) if by_name else ((given,), {})
    start, count = 0, 1
    while start < count:
        seed = each([functools.partial(_feature, index=start + offset) for offset in range(chunk)])
        relevance, output = explain(*args, **named, **question, seed=seed, return_output=True)
        if isinstance(relevance, dict):
            raise InputError(
                f"one input or place can be explained, not {len(relevance)} ({', '.join(relevance)}): name it with at="
            )
        if output.dim() != 2:
            raise InputError(f"the output of an encoder has the shape (batch, features), not {tuple(output.shape)}")
        count = output.shape[1]
        # The last chunk may have more seeds than features.
        yield _pooled(relevance[: count - start], pool), output
        start += chunk


def _feature(output: Tensor, index: int) -> Tensor:
    """The output at a feature; zeros where there is no such feature."""
    return output * (torch.arange(output.shape[-1], device=output.device) == index)


def _pooled(relevance: Tensor, pool: Pool) -> Tensor:
    """Relevance of the shape ``(features, batch, ...)``, added up over parts."""
    if pool is None:
        return relevance
    flat = relevance.flatten(0, 1)
    pooled = _by_width(flat, pool) if isinstance(pool, int) else pool(flat)
    if not isinstance(pooled, Tensor) or pooled.shape[:1] != flat.shape[:1]:
        raise InputError("pool must be a width, or a function that keeps the first dimension of a relevance")
    return pooled.reshape(*relevance.shape[:2], *pooled.shape[1:])


def _by_width(relevance: Tensor, width: int) -> Tensor:
    """Relevance of images, ``(count, channels, height, width)``, or of tokens, ``(count, length)``, in squares."""
    dims = relevance.dim()
    if dims not in (2, 4):
        raise InputError(
            f"pool={width!r}: a positive width is for images and tokens; for an input of {dims} dimensions give a "
            "function"
        )
    rows = relevance.unsqueeze(1) if dims == 2 else relevance.sum(1)
    width = min(width, max(relevance.shape[-2:]))
    kernel = (1, width) if dims == 2 else (width, width)
    pooled = F.avg_pool2d(rows.unsqueeze(1), kernel, ceil_mode=True, divisor_override=1).squeeze(1)
    return pooled.squeeze(1) if dims == 2 else pooled

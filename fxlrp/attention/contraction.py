"""A product of two operands as a matrix product, with the permutations that make it one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx


@dataclass(frozen=True)
class Contraction:
    """``left @ right``, where each operand is first permuted, and the result afterwards.

    Args:
        left: The left operand.
        right: The right operand.
        of_left: The permutation of the dimensions of the left operand; None if there is none.
        of_right: That of the right operand.
        of_result: That of the result.
    """

    left: fx.Node
    right: fx.Node
    of_left: tuple[int, ...] | None = None
    of_right: tuple[int, ...] | None = None
    of_result: tuple[int, ...] | None = None


def weights_times_values(node: fx.Node) -> Contraction | None:
    """The product of weights ``(..., q, k)`` and values; None if the node is none."""
    if node.target is not torch.einsum:
        return _matrix_product(node)
    read = _einsum(node)
    if read is None:
        return None
    weights, values, left, right, out = read
    batch, q, k = left[:-2], left[-2:-1], left[-1:]
    e = "".join(letter for letter in right if letter not in batch + k)
    if sorted(right) != sorted(batch + k + e) or sorted(out) != sorted(batch + q + e) or len(e) != 1:
        return None
    of_right, of_result = _permutation(right, batch + k + e), _permutation(batch + q + e, out)
    return Contraction(weights, values, None, of_right, of_result)


def queries_times_keys(node: fx.Node) -> Contraction | None:
    """The product of queries and keys, whose result is ``(..., q, k)``; None if the node is none."""
    if node.target is not torch.einsum:
        return _matrix_product(node)
    read = _einsum(node)
    if read is None:
        return None
    queries, keys, left, right, out = read
    batch, q, k = out[:-2], out[-2:-1], out[-1:]
    if q in right:
        queries, keys, left, right = keys, queries, right, left
    d = "".join(letter for letter in left if letter not in batch + q)
    if sorted(left) != sorted(batch + q + d) or sorted(right) != sorted(batch + k + d) or len(d) != 1:
        return None
    return Contraction(queries, keys, _permutation(left, batch + q + d), _permutation(right, batch + d + k))


def _matrix_product(node: fx.Node) -> Contraction | None:
    if node.target is not torch.matmul:
        return None
    operands = [each for each in (*node.args, *node.kwargs.values()) if isinstance(each, fx.Node)]
    return Contraction(operands[0], operands[1]) if len(operands) == 2 else None


def _einsum(node: fx.Node) -> tuple[fx.Node, fx.Node, str, str, str] | None:
    """The two operands of an einsum, with their indices and those of the result."""
    equation, *operands = node.args
    values: list[Any] = list(operands[0]) if isinstance(operands[0], list | tuple) else operands
    inputs, arrow, out = str(equation).replace(" ", "").partition("->")
    indices = inputs.split(",")
    if len(values) != 2 or len(indices) != 2 or not arrow or "." in inputs:
        return None
    if any(len(set(each)) < len(each) for each in indices) or min(map(len, (*indices, out))) < 2:
        return None
    return values[0], values[1], *indices, out


def _permutation(given: str, wanted: str) -> tuple[int, ...] | None:
    return None if given == wanted else tuple(given.index(letter) for letter in wanted)

"""A product of two operands as a matrix product, with the arrangements of dimensions that make it one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx


@dataclass(frozen=True)
class Arrangement:
    """A new order of the dimensions of a value.

    Args:
        permutation: The order; None if it is the same.
        added: Dimensions of size one that are added afterwards, in ascending order.
    """

    permutation: tuple[int, ...] | None = None
    added: tuple[int, ...] = ()


_SAME = Arrangement()


@dataclass(frozen=True)
class Contraction:
    """``left @ right``, where each operand is first arranged, and the result afterwards.

    Args:
        left: The left operand.
        right: The right operand.
        of_left: The arrangement of the left operand.
        of_right: That of the right operand.
        of_result: The permutation of the result; None if there is none.
    """

    left: fx.Node
    right: fx.Node
    of_left: Arrangement = _SAME
    of_right: Arrangement = _SAME
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
    of_right = _arrangement(right, batch, k + e)
    if of_right is None or len(e) != 1 or sorted(out) != sorted(batch + q + e):
        return None
    return Contraction(weights, values, _SAME, of_right, _permutation(batch + q + e, out))


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
    of_left, of_right = _arrangement(left, batch, q + d), _arrangement(right, batch, d + k)
    if of_left is None or of_right is None or len(d) != 1:
        return None
    return Contraction(queries, keys, of_left, of_right)


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


def _arrangement(given: str, batch: str, own: str) -> Arrangement | None:
    """Arrange dimensions as ``batch + own``; None if they are others.

    Dimensions of ``batch`` that an operand lacks, because the heads of a group share it, are added. They are the last
    ones: heads in front of the queries, ``bhgqd``, and not queries in front of the heads, ``bqhgd``.
    """
    held = "".join(letter for letter in batch if letter in given)
    if sorted(given) != sorted(held + own) or not batch.startswith(held):
        return None
    return Arrangement(_permutation(given, held + own), tuple(range(len(held), len(batch))))


def _permutation(given: str, wanted: str) -> tuple[int, ...] | None:
    return None if given == wanted else tuple(given.index(letter) for letter in wanted)

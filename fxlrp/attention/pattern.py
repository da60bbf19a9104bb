"""Find attention in an annotated graph: ``softmax(scale * Q K^T + mask) V`` in all its spellings."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxlrp.attention.call import LOW
from fxlrp.attention.contraction import Contraction, queries_times_keys, weights_times_values
from fxlrp.functions import causal_mask, mask_scores, repeat_heads
from fxlrp.graph_parts import reads_type
from fxlrp.program import Program, annotation
from fxlrp.rules.specs import Epsilon, Gradient, PassThrough, SignalTakeAll, Taylor, Uniform
from fxlrp.vocabulary.sizes import sizes_of


@dataclass(frozen=True)
class Mask:
    """A mask: added to the scores or, if it consists of truth values, True where a query may look at a key.

    Args:
        value: The mask.
        hides: Whether it is True where a query may not look at a key.
        depends: Whether it depends on the input, and receives relevance if it consists of numbers.
        is_finite: Whether hidden scores are low numbers, not minus infinity: a query that may look at no key then looks
            at all of them equally.
        sum: The sum by which the model adds the mask; None if it masks the scores otherwise.
    """

    value: fx.Node
    hides: bool = False
    depends: bool = False
    is_finite: bool = False
    sum: fx.Node | None = None

    @property
    def is_causal(self) -> bool:
        """Whether the mask is that of causal attention, made for it."""
        return self.value.target is causal_mask


@dataclass(frozen=True)
class Scale:
    """A number by which the scores are multiplied, or divided."""

    value: fx.Node | float
    divides: bool = False


@dataclass(frozen=True)
class Attention:
    """The nodes that compute attention.

    Args:
        result: The product of weights and values.
        of_values: Its operands.
        of_keys: The operands of the product of queries and keys.
        masks: The masks.
        scales: The scales.
        inner: The nodes behind the result up to the queries, keys and values: first the weights, last the scores.
    """

    result: fx.Node
    of_values: Contraction
    of_keys: Contraction
    masks: tuple[Mask, ...]
    scales: tuple[Scale, ...]
    inner: tuple[fx.Node, ...]

    @property
    def repeated(self) -> tuple[fx.Node, ...]:
        """Keys and values that are repeated for the heads of the queries; empty if they are not both."""
        operands = (self.of_keys.right, self.of_values.right)
        is_repeated = (each.target is repeat_heads and each.args[1] is self.of_keys.left for each in operands)
        return operands if all(is_repeated) else ()

    @property
    def scores(self) -> fx.Node:
        """The product of queries and keys."""
        return next(node for node in reversed(self.inner) if queries_times_keys(node) is not None)


def attentions(program: Program) -> list[Attention]:
    """The attention in an annotated program, in the order of the graph.

    Its steps have the rules of AttnLRP, of CP-LRP or of RelP, none of them chosen by the user, and nothing else reads
    the values between its operands and its result.
    """
    sizes = sizes_of(program.graph, program.vocabulary)
    by_user = {pair.origin for pair in program.options.preset.pairs if pair.by_user}
    found = (_Walk(program, sizes).attention(node) for node in program.graph.nodes)
    return [each for each in found if each is not None and _has_known_rules(each, by_user)]


def _has_known_rules(attention: Attention, by_user: Collection[str]) -> bool:
    """Whether relevance passes through attention by the rules that its transposed map stands for."""
    result = annotation(attention.result)
    if result is None or not isinstance(result.rule, Epsilon | SignalTakeAll | Gradient):
        return False
    if 0 not in result.carries:
        return True
    annotated = [annotation(node) for node in attention.inner]
    of_scores = Gradient if isinstance(result.rule, Gradient) else Epsilon
    for node, each in zip(attention.inner, annotated, strict=True):
        if each is None or each.origin in by_user:
            return False
        wanted = Taylor if node.target in _SOFTMAX else of_scores if node is attention.scores else _BETWEEN
        if not isinstance(each.rule, wanted):
            return False
    return True


_SOFTMAX = (F.softmax, torch._safe_softmax)
_BETWEEN = (Epsilon, PassThrough, SignalTakeAll, Uniform)


class _Walk:
    """Walks from the result of attention back to its operands."""

    def __init__(self, program: Program, sizes: Collection[fx.Node]) -> None:
        self._program, self._sizes = program, sizes
        self._inner: list[fx.Node] = []
        self._masks: list[Mask] = []
        self._scales: list[Scale] = []

    def attention(self, node: fx.Node) -> Attention | None:
        """The attention whose result a node is; None if it is of none."""
        of_values = weights_times_values(node)
        if of_values is None or node not in self._program.facts.dependent:
            return None
        weights = self._through_casts(of_values.left)
        if weights is None or weights.target not in _SOFTMAX or not self._is_along_keys(weights):
            return None
        scores = self._through_masks(self._step(weights, "input"))
        of_keys = None if scores is None else queries_times_keys(scores)
        if scores is None or of_keys is None or not self._has_matrices(scores, of_keys):
            return None
        self._inner.append(scores)
        of_keys = dataclasses.replace(of_keys, left=self._unscaled(of_keys.left))
        return Attention(node, of_values, of_keys, tuple(self._masks), tuple(self._scales), tuple(self._inner))

    def _step(self, node: fx.Node, operand: str) -> fx.Node | None:
        """Walk through a node to its operand."""
        self._inner.append(node)
        return self._private(self._arguments(node)[operand])

    def _private(self, value: Any) -> fx.Node | None:
        """A value that only its reader on the walk reads; None for other values."""
        if not isinstance(value, fx.Node) or value not in self._program.facts.dependent:
            return None
        return value if sum(not reads_type(user) for user in value.users) == 1 else None

    def _arguments(self, node: fx.Node) -> Mapping[str, Any]:
        operation = self._program.vocabulary.operation(node)
        return {} if operation is None else operation.arguments(node)

    def _through_casts(self, value: Any) -> fx.Node | None:
        node = self._private(value)
        while node is not None and self._is_cast(node):
            node = self._step(node, "input")
        return node

    def _is_cast(self, node: fx.Node) -> bool:
        operation = self._program.vocabulary.operation(node)
        return (
            operation is not None
            and operation.is_cast
            and not operation.tells(operation.makes_integers, operation.arguments(node))
        )

    def _is_along_keys(self, softmax: fx.Node) -> bool:
        dim, spec = self._arguments(softmax)["dim"], self._program.facts.values.get(softmax.name)
        return dim == -1 or (spec is not None and dim == len(spec.shape) - 1)

    def _has_matrices(self, scores: fx.Node, product: Contraction) -> bool:
        """Whether the keys are known to have two dimensions or more."""
        spec = self._program.facts.values.get(product.right.name)
        if spec is not None:
            return len(spec.shape) > 1
        return scores.target is torch.einsum or product.right.target in (torch.transpose, repeat_heads)

    def _through_masks(self, node: fx.Node | None) -> fx.Node | None:
        """Walk from the softmax through masks, then scales, to the scores."""
        while node is not None and queries_times_keys(node) is None:
            if self._is_cast(node):
                node = self._step(node, "input")
                continue
            mask = None if self._scales or any(each.is_finite for each in self._masks) else self._mask(node)
            scaled = self._scaled(node)
            if mask is not None:
                operand, found = mask
                self._masks.append(found)
            elif scaled is not None:
                operand, number = scaled
                self._scales.append(number)
            else:
                return None
            node = self._step(node, operand)
        return node

    def _mask(self, node: fx.Node) -> tuple[str, Mask] | None:
        """The operand that is masked, and the mask."""
        given = self._arguments(node)
        if node.target is mask_scores:
            return "input", Mask(given["mask"], depends=given["mask"] in self._program.facts.dependent)
        if node.target is operator.add:
            for operand, other in (("input", "other"), ("other", "input")):
                if self._is_constant(given[other]) and self._is_added(given[other]):
                    return operand, Mask(given[other], sum=node)
        if node.target is torch.masked_fill and self._hides(given["mask"], given["value"]):
            return "input", Mask(given["mask"], hides=True, is_finite=given["value"] != -math.inf)
        if node.target is torch.where:
            for operand, other in (("input", "other"), ("other", "input")):
                if self._hides(given["condition"], given[other]):
                    is_finite = given[other] != -math.inf
                    return operand, Mask(given["condition"], hides=operand == "other", is_finite=is_finite)
        return None

    def _hides(self, condition: Any, value: Any) -> bool:
        """Whether a number in place of scores hides keys; a finite one only if no other mask is added to it."""
        is_low = isinstance(value, int | float) and (value == -math.inf or (value <= LOW and not self._masks))
        return is_low and self._is_constant(condition)

    def _scaled(self, node: fx.Node) -> tuple[str, Scale] | None:
        """The operand that is scaled, and the number."""
        given = self._arguments(node)
        if node.target is operator.mul:
            for operand, other in (("input", "other"), ("other", "input")):
                if self._is_number(given[other]):
                    return operand, Scale(given[other])
        if node.target is operator.truediv and given["rounding_mode"] is None and self._is_number(given["other"]):
            return "input", Scale(given["other"], divides=True)
        return None

    def _unscaled(self, query: fx.Node) -> fx.Node:
        """The queries before they are scaled by a number."""
        node = self._private(query)
        while node is not None and (scaled := self._scaled(node)) is not None:
            operand, number = scaled
            query = self._arguments(node)[operand]
            self._scales.append(number)
            node = self._step(node, operand)
        return query

    def _is_constant(self, value: Any) -> bool:
        return isinstance(value, fx.Node) and value not in self._program.facts.dependent

    def _is_added(self, mask: fx.Node) -> bool:
        """Whether a sum with a constant adds a mask: not a number, nor truth values, which a sum adds as 0 and 1."""
        spec = self._program.facts.values.get(mask.name)
        return not self._is_number(mask) and (spec is None or spec.dtype != torch.bool)

    def _is_number(self, value: Any) -> bool:
        """Whether a value is a number, or a constant tensor without dimensions."""
        if not isinstance(value, fx.Node):
            return isinstance(value, int | float)
        spec = self._program.facts.values.get(value.name)
        is_scalar = spec is not None and not spec.shape and self._is_constant(value)
        return is_scalar or value in self._sizes or value.name in self._program.facts.sizes

"""Compute attention by one operation, which has fused kernels for its values and its relevance.

The weights are not written out: memory is linear in the length, and a relevance step costs what a gradient does. Where
the relevance of the weights or scores is requested, attention remains as the model writes it. The backward kernels have
no derivative.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.attention import attention
from fxlrp.attention.contraction import Arrangement
from fxlrp.attention.pattern import Attention, Mask, Scale, attentions
from fxlrp.functions import both_masks
from fxlrp.operation import Family
from fxlrp.passes.base import compiler_pass
from fxlrp.places import requested
from fxlrp.program import ANNOTATION, Annotation, Program, annotation
from fxlrp.provenance import provenance
from fxlrp.relevance.attention import KEYS, QUERY, VALUE


@compiler_pass(
    needs=["attention"],
    before=["infer_finite", "carry_quotients", "emit_relevance", "emit_backward"],
    cuts_derivatives=True,
)
def fuse_attention(program: Program) -> int:
    """Replace attention by one operation; return how often."""
    asked = requested(program)
    found = [each for each in attentions(program) if not (asked.intersection(each.inner) or _mask_depends(each))]
    for each in found:
        _fuse(program, each, asked)
    return len(found)


def _mask_depends(attention: Attention) -> bool:
    """Whether a mask depends on the input, and may receive relevance itself."""
    return any(mask.depends for mask in attention.masks)


def _shares_heads(program: Program, found: Attention, asked: Collection[fx.Node]) -> bool:
    """Whether keys and values need not be repeated for the heads that share them: nothing else reads them so."""
    default = program.options.preset.default(Family.SHAPE)
    annotated = [annotation(each) for each in found.repeated if each not in asked and len(each.users) == 1]
    return len(annotated) == 2 and all(each is None or each.rule == default for each in annotated)


def _fuse(program: Program, found: Attention, asked: Collection[fx.Node]) -> None:
    result, annotated, of_scores = found.result, annotation(found.result), annotation(found.scores)
    assert annotated is not None
    sides = () if of_scores is None else of_scores.carries
    carries = (*((QUERY, KEYS)[side] for side in sides), *((VALUE,) if 1 in annotated.carries else ()))
    new = _Calls(program, result)
    with program.graph.inserting_before(result):
        query = new.arranged(found.of_keys.left, found.of_keys.of_left, QUERY in carries)
        options = {"scale": new.scale(found.scales), **new.masks(found.masks)}
        repeated = found.repeated if _shares_heads(program, found, asked) else ()
        if repeated:
            keys, value = (each.args[0] for each in repeated)
            options["shares_heads"] = True
        else:
            keys = new.arranged(found.of_keys.right, found.of_keys.of_right, KEYS in carries)
            value = new.arranged(found.of_values.right, found.of_values.of_right, VALUE in carries)
        fused = new.call("attention", attention, query, keys, value, **options)
        new.call("logsumexp", operator.getitem, fused, 1)
        permutation = found.of_values.of_result
        out = fused if permutation is None else new.moved("product", operator.getitem, fused, 0)
    softmax = "softmax by Taylor" if 0 in annotated.carries else "the weights are constants"
    reason = f"{annotated.reason}; attention as one operation, {softmax}"
    fused.meta[ANNOTATION] = dataclasses.replace(annotated, carries=carries, reason=reason)
    # The result keeps its node, and so its name.
    if permutation is None:
        result.target, result.args, result.kwargs = operator.getitem, (fused, 0), {}
    else:
        result.target, result.args, result.kwargs = Tensor.permute, (out, permutation), {}
    result.meta[ANNOTATION] = new.passing()
    for node in found.inner:
        node.replace_all_uses_with(found.of_keys.left)
        program.graph.erase_node(node)
    for node in repeated:
        program.graph.erase_node(node)


class _Calls:
    """Adds the calls that replace attention, with the provenance of its result."""

    def __init__(self, program: Program, result: fx.Node) -> None:
        self._program, self._result = program, result

    def call(self, name: str, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a call whose name is that of the result and ``name``."""
        made = self._program.graph.call_function(function, args, kwargs)
        made.meta = provenance(self._result)
        made._rename(f"{self._result.name}_{name}")
        self._program.facts.dependent |= {made}
        return made

    def moved(self, name: str, function: Any, *args: Any) -> fx.Node:
        """Add a call that moves elements, and with them their relevance."""
        made = self.call(name, function, *args)
        made.meta[ANNOTATION] = self.passing()
        return made

    def passing(self) -> Annotation:
        """The annotation of a call that moves elements."""
        rule = self._program.options.preset.default(Family.SHAPE)
        assert rule is not None
        return Annotation(rule, (0,), "default", Family.SHAPE.value)

    def arranged(self, operand: fx.Node, arrangement: Arrangement, receives: bool) -> fx.Node:
        """The operand with its dimensions arranged."""
        add, name = self.moved if receives else self.call, operand.name
        if arrangement.permutation is not None:
            operand = add(name, Tensor.permute, operand, arrangement.permutation)
        for dim in arrangement.added:
            operand = add(f"{name}_for_groups", torch.unsqueeze, operand, dim)
        return operand

    def scale(self, scales: Sequence[Scale]) -> Any:
        """The product of the scales."""
        product: Any = 1.0
        for each in scales:
            function = operator.truediv if each.divides else operator.mul
            is_number = not isinstance(each.value, fx.Node) and not isinstance(product, fx.Node)
            if is_number:
                product = function(product, each.value)
            elif product == 1.0 and not each.divides:
                product = each.value
            else:
                product = self._constant(function, product, each.value)
        return product

    def masks(self, masks: Sequence[Mask]) -> dict[str, Any]:
        """The arguments for all masks together."""
        if [each.is_causal for each in masks] == [True]:
            return {"is_causal": True}
        if [each.is_finite for each in masks] == [True]:
            return {"mask": self._keeping(masks[0]), "hides_finitely": True}
        merged: fx.Node | None = None
        for each in masks:
            mask = self._keeping(each)
            merged = mask if merged is None else self._constant(both_masks, merged, mask)
        return {"mask": merged} if merged is not None else {}

    def _keeping(self, mask: Mask) -> fx.Node:
        """The mask as one that is True where a query may look."""
        return self._constant(torch.logical_not, mask.value) if mask.hides else mask.value

    def _constant(self, function: Any, *args: Any) -> fx.Node:
        made = self._program.graph.call_function(function, args)
        made.meta = provenance(self._result)
        return made

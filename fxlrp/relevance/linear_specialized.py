"""Cheaper steps for linear maps, where the facts and decisions of the compiler allow them.

If the input is non-negative, the terms with ``x-`` vanish, and with them half of the maps of ZPlus, AlphaBeta and
Gamma. The step passes on a quotient ``C`` of ``R_x = x * C``.

If the input has both signs, ``(w x)+ = (w x + |w x|) / 2`` turns the four maps of Gamma into the layer's own and one
more, the sum of magnitudes ``a = f(|W|, |b|; |x|)``. In ZPlus and AlphaBeta ``z + a`` could cancel, so ``x+`` and
``x-`` have their own maps. The step passes on ``R_x``, which is the cheaper form of a sum of two products.

If relevance is zero wherever the output is not positive, the half of Gamma for negative outputs vanishes, and
``z+ = z + |z-|`` needs no separate map. An emitter returns None if no cheaper step is allowed.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from fxlrp.relevance.allocation import allocates, with_in_place_form
from fxlrp.relevance.linear_terms import Maps, Term, Terms, non_positive, positive
from fxlrp.relevance.quotients import is_rectified, over, stabilize_positive
from fxlrp.relevance.step import Step
from fxlrp.rules.specs import AlphaBeta, Gamma, ZPlus


def negative(weight: Tensor) -> Tensor:
    """``|W-|``."""
    return weight.neg().clamp_(min=0)


def minus_positive(weight: Tensor) -> Tensor:
    """``-W+``."""
    return weight.clamp(min=0).neg_()


def raise_positive(weight: Tensor, gamma: float) -> Tensor:
    """``W + gamma * W+``."""
    return weight.clamp(min=0).mul_(gamma).add_(weight)


def magnitude(weight: Tensor, share: float) -> Tensor:
    """``share * |W|``."""
    return weight.abs().mul_(share)


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """:func:`add_product`, in the memory of ``total`` if it has the type of the sum."""
    return total.addcmul_(a, b) if total.dtype == a.dtype == b.dtype else add_product(total, a, b)


@allocates
@with_in_place_form(add_product_)
def add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``total + a * b``."""
    return torch.addcmul(total, a, b)


def transposed(step: Step, u: fx.Node, _: int) -> fx.Node:
    """Emit ``W^T(u)``."""
    maps = Maps(step)
    return maps.transposed(u, maps.weight)


def without_bias(step: Step) -> fx.Node | None:
    """Emit ``f(W, 0; x)``; None without a bias."""
    maps = Maps(step)
    return None if maps.bias is None else maps.forward("without_bias", maps.x, maps.weight)


def zplus(step: Step) -> Terms | None:
    """``C = W+^T(R / s(z+))`` with ``z+ = f(W+, b+; x)``."""
    assert isinstance(step.rule, ZPlus)
    maps = Maps(step)
    return _raising(maps, step.rule) if maps.possible else None


def _raising(maps: Maps, rule: ZPlus | AlphaBeta) -> Terms:
    step, bias = maps.step, maps.bias if rule.bias else None
    weights = maps.weights("weight_pos", positive, non_positive)
    bias_pos = maps.biases("bias_pos", positive, bias)
    z_pos = maps.total("pos", weights, bias_pos)
    r = over(step, step.named("s", stabilize_positive, z_pos, rule.stabilizer))
    inputs = [(x, [Term(weight, r)]) for x, weight in zip(maps.parts, weights, strict=True)]
    return Terms(maps, inputs, _of_bias((bias_pos, r, 1.0)), share_quotient=True)


def _of_bias(*terms: tuple[fx.Node | None, fx.Node, float]) -> list[Term]:
    return [Term(part, r, scale) for part, r, scale in terms if part is not None]


def alpha_beta(step: Step) -> Terms | None:
    """``C = alpha W+^T(R / s(z+)) - beta |W-|^T(R / s(|z-|))``."""
    rule = step.rule
    assert isinstance(rule, AlphaBeta)
    maps = Maps(step)
    if not maps.possible:
        return None
    if rule.beta == 0:
        return _raising(maps, rule)
    bias = maps.bias if rule.bias else None
    weights_pos = maps.weights("weight_pos", positive, non_positive)
    weights_neg = maps.weights("weight_neg", negative, minus_positive)
    bias_pos, bias_neg = maps.biases("bias_pos", positive, bias), maps.biases("bias_neg", negative, bias)
    z_neg = maps.total("neg", weights_neg, bias_neg)
    if step.facts.supported and bias is maps.bias:
        z_pos = step.named("pos", operator.add, _output(step), z_neg)
    else:
        z_pos = maps.total("pos", weights_pos, bias_pos)
    above, below = (over(step, step.named("s", stabilize_positive, z, rule.stabilizer)) for z in (z_pos, z_neg))
    inputs = [
        (x, [Term(raising, above, rule.alpha), Term(lowering, below, -rule.beta)])
        for x, raising, lowering in zip(maps.parts, weights_pos, weights_neg, strict=True)
    ]
    return Terms(maps, inputs, _of_bias((bias_pos, above, rule.alpha), (bias_neg, below, -rule.beta)))


def gamma(step: Step) -> Terms | None:
    """``C = (W + gamma W+)^T r`` for positive outputs; with ``a`` for outputs and inputs of both signs."""
    rule = step.rule
    assert isinstance(rule, Gamma)
    maps = Maps(step)
    if not maps.possible or (maps.bias is not None and not rule.bias):
        return None
    if maps.signed or not step.facts.supported:
        # w x + gamma (w x)+ is w x + share |w x| for a share of gamma / (2 + gamma), times 1 + gamma / 2.
        return _by_magnitude(maps, rule.gamma / (2 + rule.gamma), rule.stabilizer / (1 + rule.gamma / 2))
    raised = step.named("raised", raise_positive, maps.weight, rule.gamma)
    bias = maps.biases("bias_raised", raise_positive, maps.bias, rule.gamma)
    z = maps.forward("raised", maps.x, raised, bias)
    r = over(step, step.named("s", stabilize_positive, z, rule.stabilizer))
    return Terms(maps, [(maps.x, [Term(raised, r)])], _of_bias((bias, r, 1.0)))


def _by_magnitude(maps: Maps, share: float, epsilon: float) -> Terms:
    """``R_x = x * W^T r + |x| * (share |W|)^T |r|``, where ``|r|`` is ``r`` with the sign of the relevance.

    The contributions of positive outputs are ``w x + share |w x|``, those of negative ones ``w x - share |w x|``. Their
    sum is ``z + a`` or ``z - a`` with ``a = f(share |W|, share |b|; |x|)``, of which nothing cancels.
    """
    step, x = maps.step, maps.x
    size = step.named("size", torch.abs, x) if maps.signed else x
    weight = step.named("magnitude", magnitude, maps.weight, share)
    bias = maps.biases("bias_magnitude", magnitude, maps.bias, share)
    a = maps.forward("of_magnitude", size, weight, bias)
    if step.facts.supported:
        total = step.named("total", operator.add, a, _output(step))
        r = of_size = over(step, step.named("s", stabilize_positive, total, epsilon))
    else:
        sign = step.named("sign", torch.sign, step.node)
        total = step.named("total", add_product, a, sign, step.node)
        divided = over(step, step.named("s", stabilize_positive, total, epsilon))
        r = step.named("signed", operator.mul, divided, sign)
        # Nothing flows where z is zero, so the sign of zero is zero here, too.
        of_size = step.named("unsigned", operator.mul, sign, r)
    of_signs, of_sizes = Term(maps.weight, r), Term(weight, of_size)
    inputs = [(x, [of_signs]), (size, [of_sizes])] if maps.signed else [(x, [of_signs, of_sizes])]
    return Terms(maps, inputs, _of_bias((maps.bias, r, 1.0), (bias, of_size, 1.0)))


def _output(step: Step) -> fx.Node:
    """The node's value where it is positive; its ReLU if available, so that the value itself can be freed."""
    base = step.single.base
    return base if base is not None and is_rectified(base, step.node) else step.node

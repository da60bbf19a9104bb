"""Relevance of normalization layers in eval mode.

The statistic ``1/sigma`` is a constant; the rest (centering, scale and shift) is linear and follows LRP-epsilon,
where the shift absorbs its share like a bias. So ``y = L x + beta`` and ``R_x = x * L^T(R / s(y))``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.relevance.allocation import allocates
from fxlrp.relevance.held import Frozen, Held
from fxlrp.relevance.numerics import as_type_of, unbroadcast, widened
from fxlrp.relevance.proportional import LinearMap, TransposedMap, derivatives, proportional
from fxlrp.relevance.step import Absorber, Contribution, Implementation, RuleTable, Step, no_relevance_of
from fxlrp.rules.specs import Epsilon


def _over_channels(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(1, -1, *(1,) * (x.dim() - 2))


@allocates
def batch_norm_transposed(u: Tensor, running_var: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
    """``L^T(u)`` of BatchNorm with running statistics, which scales each channel; ``L`` is the same map."""
    scale = torch.rsqrt(running_var + eps)
    return u * _over_channels(scale if weight is None else scale * weight, u)


def layer_norm_transposed(
    u: Tensor,
    x: Tensor,
    weight: Tensor | None,
    *,
    normalized_shape: Sequence[int],
    eps: float,
    differentiable: bool = False,
) -> Tensor:
    """``L^T(u)`` of layer normalization."""
    dims, dtype = tuple(range(-len(normalized_shape), 0)), u.dtype
    u = widened(u)
    weighted = u if weight is None else u * weight
    return _centred_transposed(weighted, x, dims, eps, differentiable).to(dtype)


def _centred_transposed(u: Tensor, x: Tensor, dims: tuple[int, ...], eps: float, differentiable: bool) -> Tensor:
    """Compute in at least single precision, as the kernels of torch do for half precision."""
    u, x = widened(u), widened(x)
    if differentiable:
        inverse_sigma = torch.rsqrt(x.var(dims, correction=0, keepdim=True) + eps)
    else:
        # The kernel of the normalization is many times faster than torch.var, but its 1/sigma has no derivative.
        inverse_sigma = torch.native_layer_norm(x, x.shape[-len(dims) :], None, None, eps)[2]
    return (u - u.mean(dims, keepdim=True)).mul_(inverse_sigma)


def group_norm_transposed(
    u: Tensor,
    x: Tensor,
    weight: Tensor | None,
    *,
    num_groups: int | None = None,
    eps: float,
    differentiable: bool = False,
) -> Tensor:
    """``L^T(u)`` of group normalization, or without a number of groups of instance normalization."""
    dtype, u = u.dtype, widened(u)
    u = u if weight is None else u * _over_channels(weight, x)
    grouped = (x.shape[0], x.shape[1] if num_groups is None else num_groups, -1)
    centred = _centred_transposed(u.reshape(grouped), x.reshape(grouped), (-1,), eps, differentiable)
    return centred.reshape(x.shape).to(dtype)


def without_shift(out: Tensor, shift: Tensor) -> Tensor:
    """``y - beta`` of a shift over the channels."""
    return out - _over_channels(shift, out)


def _emit_batch_norm(step: Step, u: fx.Node, _: int = 0) -> fx.Node:
    given = step.arguments
    return step.call(batch_norm_transposed, u, given["running_var"], given["weight"], eps=given["eps"])


def _emit_layer_norm(step: Step, u: fx.Node, _: int) -> fx.Node:
    given = step.arguments
    x, weight = given["input"], given["weight"]
    how = {"normalized_shape": given["normalized_shape"], "eps": given["eps"], **_derivative(step)}
    return step.call(layer_norm_transposed, u, x, weight, **how)


def _emit_group_norm(step: Step, u: fx.Node, _: int) -> fx.Node:
    given = step.arguments
    groups: dict[str, Any] = {"num_groups": given["num_groups"]} if "num_groups" in given else {}
    how = _derivative(step)
    return step.call(group_norm_transposed, u, given["input"], given["weight"], **groups, eps=given["eps"], **how)


def _derivative(step: Step) -> dict[str, Any]:
    """The option with which the statistic has a derivative, where one is needed."""
    return {"differentiable": True} if step.facts.differentiable else {}


def _uses_running_statistics(step: Step) -> bool:
    return not step.arguments["use_input_stats"]


def _emit_instance_norm(step: Step, u: fx.Node, position: int) -> fx.Node:
    return (_emit_batch_norm if _uses_running_statistics(step) else _emit_group_norm)(step, u, position)


def _batch_norm_without_bias(step: Step) -> fx.Node:
    return _emit_batch_norm(step, step.arguments["input"])


def _layer_norm_without_bias(step: Step) -> fx.Node | None:
    bias = step.arguments["bias"]
    return None if bias is None else step.named("without_bias", operator.sub, step.node, bias)


def _group_norm_without_bias(step: Step) -> fx.Node | None:
    bias = step.arguments["bias"]
    return None if bias is None else step.named("without_bias", without_shift, step.node, bias)


def _instance_norm_without_bias(step: Step) -> fx.Node | None:
    return (_batch_norm_without_bias if _uses_running_statistics(step) else _group_norm_without_bias)(step)


def scale_relevance(u: Tensor, y: Tensor, scale: Tensor, shift: Tensor | None, *, channels: bool) -> Tensor:
    """``R_gamma = sum (y - beta) * u``, the contribution of the scaled values."""
    return _summed(u * (y if shift is None else y - _expanded(shift, y, channels)), scale, channels)


def shift_relevance(u: Tensor, y: Tensor, shift: Tensor, *, channels: bool) -> Tensor:
    """``R_beta = sum beta * u``."""
    return _summed(u * _expanded(shift, y, channels), shift, channels)


def _expanded(parameter: Tensor, y: Tensor, channels: bool) -> Tensor:
    return _over_channels(parameter, y) if channels else parameter


def _summed(products: Tensor, parameter: Tensor, channels: bool) -> Tensor:
    if channels:
        return as_type_of(products.sum([dim for dim in range(products.dim()) if dim != 1]), parameter)
    return unbroadcast(products, parameter)


def _of_argument(channels: bool) -> Callable[[Step, fx.Node, str], Contribution]:
    """The relevance of the scale and the shift, over the channels or over the last dimensions."""

    def emit(step: Step, u: fx.Node, name: str) -> Contribution:
        given = step.arguments
        if name == "weight":
            return step.call(scale_relevance, u, step.node, given["weight"], given.get("bias"), channels=channels)
        if name != "bias":
            raise no_relevance_of(step, name)
        absorbs = isinstance(step.rule, Epsilon) and step.rule.bias
        return step.call(shift_relevance, u, step.node, given["bias"], channels=channels) if absorbs else None

    return emit


def _frozen(standardize: Callable[[Held, Tensor], Tensor], *, channels: bool) -> Frozen:
    """``L v + beta`` with the statistics at the input; ``standardize`` computes ``L v`` before the scale."""

    def forward(held: Held, moved: Mapping[int, Tensor]) -> Tensor:
        (v,) = moved.values()
        y, given = standardize(held, v), held.arguments
        weight, bias = (given.get(name) for name in ("weight", "bias"))
        y = y if weight is None else y * _expanded(weight, y, channels)
        return y if bias is None else y + _expanded(bias, y, channels)

    return Frozen("the statistic 1/sigma", forward)


def _layer_standardized(held: Held, v: Tensor) -> Tensor:
    given = held.arguments
    dims = tuple(range(-len(given["normalized_shape"]), 0))
    variance: Tensor = given["input"].var(dims, correction=0, keepdim=True)
    return (v - v.mean(dims, keepdim=True)) * torch.rsqrt(variance + given["eps"])


def _group_standardized(held: Held, v: Tensor) -> Tensor:
    given = held.arguments
    x = given["input"].reshape(len(v), given.get("num_groups", v.shape[1]), -1)
    grouped, variance = v.reshape(x.shape), x.var(-1, correction=0, keepdim=True)
    standardized: Tensor = (grouped - grouped.mean(-1, keepdim=True)) * torch.rsqrt(variance + given["eps"])
    return standardized.reshape(v.shape)


def _root_mean_square_standardized(held: Held, v: Tensor) -> Tensor:
    given = held.arguments
    return v * _inverse_root_mean_square(given["input"], given["normalized_shape"], given["eps"])


def _instance_frozen(held: Held, moved: Mapping[int, Tensor]) -> Tensor:
    result: Tensor = (_GROUP_FROZEN.forward if held.arguments["use_input_stats"] else Held.at)(held, moved)
    return result


_GROUP_FROZEN = _frozen(_group_standardized, channels=True)


def _inverse_root_mean_square(x: Tensor, normalized_shape: Sequence[int], eps: float | None) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    return torch.rsqrt(x.square().mean(dims, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))


def rms_norm_transposed(
    u: Tensor, x: Tensor, weight: Tensor | None, *, normalized_shape: Sequence[int], eps: float | None
) -> Tensor:
    """``L^T(u)`` of root mean square normalization, which scales each element."""
    wide = widened(u) * _inverse_root_mean_square(widened(x), normalized_shape, eps)
    return (wide if weight is None else wide * weight).to(u.dtype)


def _emit_rms_norm(step: Step, u: fx.Node, _: int) -> fx.Node:
    given = step.arguments
    how = {"normalized_shape": given["normalized_shape"], "eps": given["eps"]}
    return step.call(rms_norm_transposed, u, given["input"], given["weight"], **how)


def _scaled(coefficient: TransposedMap, standardize: Callable[[Held, Tensor], Tensor]) -> Implementation:
    """``y = x * c`` with a constant ``c``: the result of the map is the contribution."""
    return proportional(
        LinearMap(
            lambda step, u, _: u,
            contributions=lambda step: step.node,
            absorber=Absorber.NOTHING,
            of_argument=_of_argument(channels=False),
            coefficient=coefficient,
            frozen=_frozen(standardize, channels=False),
        )
    )


def _affine(
    transposed: Callable[[Step, fx.Node, int], fx.Node],
    without_bias: Callable[[Step], fx.Node | None],
    *,
    channels: bool = True,
    absorber: Absorber | None = None,
    frozen: Frozen | None = None,
) -> Implementation:
    return proportional(
        LinearMap(
            transposed,
            without_bias=without_bias,
            absorber=absorber,
            frozen=frozen,
            of_argument=_of_argument(channels),
        )
    )


RULES: RuleTable = {
    **derivatives({"batch_norm": _emit_batch_norm}),
    Epsilon: {
        "batch_norm": _affine(_emit_batch_norm, _batch_norm_without_bias),
        "instance_norm": _affine(
            _emit_instance_norm, _instance_norm_without_bias, frozen=Frozen(_GROUP_FROZEN.what, _instance_frozen)
        ),
        "layer_norm": _affine(
            _emit_layer_norm,
            _layer_norm_without_bias,
            channels=False,
            absorber=Absorber.BIAS,
            frozen=_frozen(_layer_standardized, channels=False),
        ),
        "group_norm": _affine(_emit_group_norm, _group_norm_without_bias, absorber=Absorber.BIAS, frozen=_GROUP_FROZEN),
        "rms_norm": _scaled(_emit_rms_norm, _root_mean_square_standardized),
    },
}

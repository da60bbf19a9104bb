"""Relevance of normalization layers in eval mode.

The statistic ``1/sigma`` is a constant; the rest (centring, scale and shift) is linear and follows LRP-epsilon, the
shift absorbing its share as a bias does. So ``y = L x + beta`` and ``R_x = x * L^T(R / s(y))``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxlrp.relevance.numerics import stabilize, widened
from fxlrp.relevance.quotients import over_value
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import Epsilon


def _over_channels(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(1, -1, *(1,) * (x.dim() - 2))


def batch_norm_epsilon(
    x: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    out: Tensor,
    r: Tensor,
    *,
    eps: float,
    epsilon: float,
    keep_bias: bool = True,
) -> Tensor:
    """``R_x = x w / sigma * R / s(y)``: BatchNorm with running statistics is an affine map."""
    scaled = batch_norm_transposed(x, running_var, weight, eps=eps)
    return scaled * (r / stabilize(out if keep_bias else scaled, epsilon))


def batch_norm_transposed(u: Tensor, running_var: Tensor, weight: Tensor | None, *, eps: float) -> Tensor:
    """``L^T(u)`` of BatchNorm with running statistics, which scales each channel."""
    scale = torch.rsqrt(running_var + eps)
    return u * _over_channels(scale if weight is None else scale * weight, u)


def layer_norm_epsilon(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    r: Tensor,
    *,
    normalized_shape: tuple[int, ...],
    eps: float,
    epsilon: float,
    keep_bias: bool = True,
) -> Tensor:
    """``R_x = x * L^T(R / s(y))`` with ``L x = w (x - mean(x)) / sigma``."""
    z = out if keep_bias or bias is None else out - bias
    u = r / stabilize(z, epsilon)
    return x * layer_norm_transposed(u, x, weight, normalized_shape=normalized_shape, eps=eps)


def layer_norm_transposed(
    u: Tensor, x: Tensor, weight: Tensor | None, *, normalized_shape: tuple[int, ...], eps: float
) -> Tensor:
    """``L^T(u)`` of layer normalization."""
    dims, dtype = tuple(range(-len(normalized_shape), 0)), u.dtype
    u = widened(u)
    return _centred_transposed(u if weight is None else u * weight, x, dims, eps).to(dtype)


def _centred_transposed(u: Tensor, x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """In at least single precision, as torch's own kernels compute normalizations of half precision."""
    sigma = torch.sqrt(widened(x).var(dims, correction=0, keepdim=True) + eps)
    u = widened(u)
    return (u - u.mean(dims, keepdim=True)) / sigma


def group_norm_epsilon(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    r: Tensor,
    *,
    num_groups: int,
    eps: float,
    epsilon: float,
    keep_bias: bool = True,
) -> Tensor:
    """``R_x = x * L^T(R / s(y))`` with ``L`` centring and scaling within each group of channels."""
    z = out if keep_bias or bias is None else out - _over_channels(bias, x)
    return x * group_norm_transposed(r / stabilize(z, epsilon), x, weight, num_groups=num_groups, eps=eps)


def group_norm_transposed(u: Tensor, x: Tensor, weight: Tensor | None, *, num_groups: int, eps: float) -> Tensor:
    """``L^T(u)`` of group normalization."""
    dtype, u = u.dtype, widened(u)
    u = u if weight is None else u * _over_channels(weight, x)
    grouped = (x.shape[0], num_groups, -1)
    return _centred_transposed(u.reshape(grouped), x.reshape(grouped), (-1,), eps).reshape(x.shape).to(dtype)


def instance_norm_epsilon(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    r: Tensor,
    *,
    eps: float,
    epsilon: float,
    keep_bias: bool = True,
) -> Tensor:
    """``R_x = x * L^T(R / s(y))`` with ``L`` centring and scaling within each channel."""
    options: dict[str, Any] = {"eps": eps, "epsilon": epsilon, "keep_bias": keep_bias}
    return group_norm_epsilon(x, weight, bias, out, r, num_groups=x.shape[1], **options)


def scaled_epsilon(out: Tensor, r: Tensor, *, epsilon: float) -> Tensor:
    """``R_x = y * R / s(y)`` for ``y = x * c`` with a constant ``c``: RMS and local response normalization."""
    return out * (r / stabilize(out, epsilon))


def _emit_epsilon(step: Step) -> Contributions:
    assert isinstance(step.rule, Epsilon)
    arguments, name = step.arguments, step.operation.name
    x, weight, bias = arguments["input"], arguments.get("weight"), arguments.get("bias")
    options: dict[str, Any] = {"epsilon": step.rule.epsilon}
    if name in ("rms_norm", "local_response_norm"):
        return [step.call(scaled_epsilon, step.node, step.relevance, **options)]
    options = {"eps": arguments["eps"], **options}
    if not step.rule.bias:
        options["keep_bias"] = False
    if name == "batch_norm" or (name == "instance_norm" and not arguments["use_input_stats"]):
        variance = arguments["running_var"]
        return [step.call(batch_norm_epsilon, x, variance, weight, step.node, step.relevance, **options)]
    if name == "layer_norm":
        options["normalized_shape"] = tuple(arguments["normalized_shape"])
        return [step.call(layer_norm_epsilon, x, weight, bias, step.node, step.relevance, **options)]
    if name == "group_norm":
        options["num_groups"] = arguments["num_groups"]
        return [step.call(group_norm_epsilon, x, weight, bias, step.node, step.relevance, **options)]
    return [step.call(instance_norm_epsilon, x, weight, bias, step.node, step.relevance, **options)]


def _specialize_epsilon(step: Step) -> Contributions | None:
    """``C = L^T(R / s(y))``."""
    assert isinstance(step.rule, Epsilon)
    arguments, name = step.arguments, step.operation.name
    x, weight = arguments["input"], arguments.get("weight")
    if not step.facts.quotients or not step.rule.bias or name not in ("batch_norm", "layer_norm", "group_norm"):
        return None
    shared, eps = over_value(step, step.rule.epsilon), arguments["eps"]
    if name == "batch_norm":
        factor = step.call(batch_norm_transposed, shared, arguments["running_var"], weight, eps=eps)
    elif name == "layer_norm":
        shape = tuple(arguments["normalized_shape"])
        factor = step.call(layer_norm_transposed, shared, x, weight, normalized_shape=shape, eps=eps)
    else:
        groups = arguments["num_groups"]
        factor = step.call(group_norm_transposed, shared, x, weight, num_groups=groups, eps=eps)
    return [step.times(x, factor)]


RULES: RuleTable = {Epsilon: Implementation(_emit_epsilon, specialize=_specialize_epsilon)}

"""Fold BatchNorm into the linear map before it, where that is valid.

The rules then apply to one linear map with one bias, as with the canonizers of other LRP libraries. Folding is valid if
no other node reads the linear map. The folded weights are computed in the graph from the live parameters, so an
explainer never uses old values, and a module that is called twice is folded at each call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.functions import expect_dims
from fxlrp.operation import Family, Operation
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program
from fxlrp.provenance import module_path, provenance
from fxlrp.relevance.folded import (
    bias_of_folded,
    scale_of_folded_bias,
    scale_of_folded_weight,
    shift_of_folded,
    weight_of_folded,
)
from fxlrp.relevance.parameters import with_parameter_relevance


@with_parameter_relevance(weight=weight_of_folded, scale=scale_of_folded_weight)
def folded_weight(
    weight: Tensor,
    scale: Tensor | None,
    variance: Tensor,
    *,
    eps: float,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """``W' = W * gamma / sigma`` over the output channels, which a transposed convolution has second."""
    factor = torch.rsqrt(_wide(variance) + eps)
    factor = factor if scale is None else factor * scale
    if not transposed:
        return (weight * factor.reshape(-1, *(1,) * (weight.dim() - 1))).to(weight.dtype)
    spatial = (1,) * (weight.dim() - 2)
    grouped = weight.reshape(groups, -1, *weight.shape[1:]) * factor.reshape(groups, 1, -1, *spatial)
    return grouped.reshape(weight.shape).to(weight.dtype)


@with_parameter_relevance(bias=bias_of_folded, scale=scale_of_folded_bias, shift=shift_of_folded, like=None)
def folded_bias(
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    *,
    eps: float,
    like: Tensor | None = None,
) -> Tensor:
    """``b' = (b - mu) * gamma / sigma + beta``, in the type of ``like``: under autocast that of the linear map."""
    folded = (-_wide(mean) if bias is None else bias - _wide(mean)) * torch.rsqrt(_wide(variance) + eps)
    folded = folded if scale is None else folded * scale
    return (folded if shift is None else folded + shift).to((mean if like is None else like).dtype)


def _wide(parameter: Tensor) -> Tensor:
    """Convert to at least single precision, because half precision would round at every operation."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))


@compiler_pass(needs=["functional", "decomposed", "no identities"], after=["infer_values"], before=["infer_dependence"])
def fold_batch_norm(program: Program) -> int:
    """Fold every BatchNorm that may be folded; return how many were."""
    count = 0
    for node in list(program.graph.nodes):
        operation = program.vocabulary.operation(node)
        if operation is None or operation.name != "batch_norm":
            continue
        before, parameters = node.args[0], operation.arguments(node)
        linear = program.vocabulary.operation(before) if isinstance(before, fx.Node) else None
        if (
            isinstance(before, fx.Node)
            and linear is not None
            and _foldable(program, before, linear, parameters["running_var"])
        ):
            program.facts.removed[module_path(node)] = (
                f"this BatchNorm is folded into {before.name!r}, which now has its output: name {before.name!r} instead"
            )
            _fold(program, before, linear, node, parameters)
            count += 1
    return count


def _foldable(program: Program, before: fx.Node, linear: Operation, variance: Any) -> bool:
    if linear.family is not Family.LINEAR or len(before.users) != 1:
        return False
    if linear.dims > 0:
        return True
    # A dense layer maps the last dimension, BatchNorm the second: they are the same only for vectors.
    value = program.facts.values.get(before.name)
    sizes = [_parameter(program, node) for node in (linear.arguments(before)["weight"], variance)]
    known_to_differ = None not in sizes and sizes[0] != sizes[1]
    return not known_to_differ and (value is None or len(value.shape) == 2)


def _parameter(program: Program, node: Any) -> int | None:
    """The first size of a parameter; None for a computed value."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    return int(operator.attrgetter(str(node.target))(program.graph_module).shape[0])


def _flattened(linear: fx.Node, program: Program) -> bool:
    """Whether a dense layer reads a value that was flattened to ``(batch, features)``."""
    source = linear.args[0]
    while isinstance(source, fx.Node):
        operation = program.vocabulary.operation(source)
        if operation is None:
            return False
        if operation.tells(operation.is_flat, operation.arguments(source)):
            return True
        is_dense = operation.family is Family.LINEAR and operation.dims == 0
        if not (is_dense or operation.name == "batch_norm" or operation.family is Family.ACTIVATION):
            return False
        source = source.args[0]
    return False


_VECTORS = (
    "a BatchNorm was folded into a dense layer for inputs of shape (batch, features) (for another shape, pass "
    "example_inputs to fxlrp.compile)"
)


def _fold(program: Program, before: fx.Node, linear: Operation, norm: fx.Node, parameters: dict[str, Any]) -> None:
    graph, arguments = program.graph, linear.arguments(before)
    eps, variance, before_fold = parameters["eps"], parameters["running_var"], dict(arguments)

    def constant(function: Callable[..., Any], *args: Any, name: str, **kwargs: Any) -> fx.Node:
        node = graph.create_node("call_function", function, args, kwargs, name=f"{before.name}_{name}")
        node.meta = provenance(before)
        return node

    # Only the normalization reads the linear map, so it may move to where the parameters of the normalization exist.
    norm.prepend(before)
    transposed = {"transposed": True, "groups": arguments["groups"]} if linear.transposes else {}
    with graph.inserting_before(before):
        weight = constant(
            folded_weight,
            arguments["weight"],
            parameters["weight"],
            variance,
            name="folded_weight",
            eps=eps,
            **transposed,
        )
        bias = constant(
            folded_bias,
            arguments["bias"],
            parameters["weight"],
            parameters["bias"],
            parameters["running_mean"],
            variance,
            name="folded_bias",
            eps=eps,
            like=arguments["weight"],
        )
        if linear.dims == 0 and not _flattened(before, program):
            arguments["input"] = constant(expect_dims, arguments["input"], 2, _VECTORS, name="input")
    _infer(program, {weight: before_fold["weight"], bias: variance, arguments["input"]: before_fold["input"]})
    before.args, before.kwargs = linear.call({**arguments, "weight": weight, "bias": bias})
    norm.replace_all_uses_with(before)
    graph.erase_node(norm)


def _infer(program: Program, like: Mapping[fx.Node, fx.Node]) -> None:
    """Record the shapes and types of new values, which are those of others, if they are known."""
    known = program.facts.values
    program.facts.values = {
        **known,
        **{new.name: known[other.name] for new, other in like.items() if other.name in known},
    }

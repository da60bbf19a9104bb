"""The share of the bias in the relevance that a step absorbs, where the formula of its rule determines it.

LRP-epsilon of an affine map ``z = L x + b`` passes on ``sum_k (L x)_k R_k / s(z_k)``. So of the relevance that the
step receives, the bias absorbs ``sum_k b_k R_k / s(z_k)``, and the stabilizer absorbs the rest:
``sum_k R_k (s(z_k) - z_k) / s(z_k)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxlrp.debugging.step_by_step import NodeFlow
from fxlrp.relevance import implementation
from fxlrp.relevance.numerics import stabilize
from fxlrp.relevance.step import Absorber
from fxlrp.rules.specs import Epsilon


@dataclass(frozen=True)
class Constant:
    """The constant ``b`` of a step: a bias, or what an operation makes of zeros in place of what receives relevance.

    Args:
        flow: The node and its step.
        reads: The nodes from whose values it is computed; none if it is zero.
        is_bias: Whether it is the bias.
    """

    flow: NodeFlow
    reads: tuple[fx.Node, ...]
    is_bias: bool

    @staticmethod
    def of(flow: NodeFlow) -> Constant | None:
        """Return the constant of a step; None if the formula of the rule does not determine its share."""
        rule, how = flow.annotation.rule, implementation(flow.operation, flow.annotation.rule)
        if how is None or not isinstance(rule, Epsilon) or how.absorber is None:
            return None
        if how.absorber is Absorber.BIAS:
            bias = flow.operation.arguments(flow.node)["bias"] if rule.bias else None
            return Constant(flow, (bias,) if isinstance(bias, fx.Node) else (), is_bias=True)
        adds = how.absorber is Absorber.OPERANDS and any(each is not None for each in flow.added)
        return Constant(flow, tuple(flow.node.all_input_nodes) if adds else (), is_bias=False)

    def share(self, values: Mapping[fx.Node, Any], out: Tensor, r: Tensor) -> float:
        """Return ``sum_k b_k R_k / s(z_k)``.

        Args:
            values: The values of the nodes that the constant reads.
            out: The value ``z`` of the node.
            r: Its relevance ``R``, in the shape of ``out``.
        """
        if not self.reads:
            return 0.0
        rule = self.flow.annotation.rule
        assert isinstance(rule, Epsilon)
        constant = self._bias(values, out) if self.is_bias else self._of_zeros(values)
        constant, out, r = (_by_components(each, out) for each in (constant, out, r))
        return float((constant.double() * r.double() / stabilize(out, rule.epsilon).double()).sum())

    def _bias(self, values: Mapping[fx.Node, Any], out: Tensor) -> Tensor:
        """The bias in a shape that broadcasts to that of the result."""
        bias: Tensor = values[self.reads[0]]
        spatial = out.dim() - 2 if self.flow.operation.name == "group_norm" else self.flow.operation.dims
        return bias.reshape(-1, *(1,) * spatial) if spatial else bias

    def _of_zeros(self, values: Mapping[fx.Node, Any]) -> Tensor:
        """The result of the operation for zeros in place of the operands that receive relevance."""
        node, operation, positions = self.flow.node, self.flow.operation, itertools.count()
        arguments = {name: fx.map_arg(given, values.__getitem__) for name, given in operation.arguments(node).items()}

        def operand(given: Any) -> Any:
            return torch.zeros_like(given) if next(positions) in self.flow.annotation.carries else given

        for name in operation.operands:
            given = arguments[name]
            arguments[name] = list(map(operand, given)) if isinstance(given, list | tuple) else operand(given)
        args, kwargs = operation.call(arguments)
        result: Tensor = operation.function(*args, **kwargs)
        return result


def at_zeros(out: Tensor, r: Tensor) -> float:
    """Return the relevance of the elements that are exactly zero: none of it can be passed on in proportion.

    Args:
        out: The value ``z`` of a node whose constant is known.
        r: Its relevance, in the shape of ``out``.
    """
    out, r = (_by_components(each, out) for each in (out, r))
    return float(r.double().masked_fill(out != 0, 0.0).sum())


def _by_components(value: Tensor, out: Tensor) -> Tensor:
    """A value by real and imaginary parts, which have their own relevance, if the result is complex."""
    return torch.view_as_real(value.to(out.dtype).resolve_conj()) if out.is_complex() else value

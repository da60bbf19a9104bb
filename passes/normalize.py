"""Rewrite every call to the canonical vocabulary: one operation, one spelling, calls of functions only."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxlrp.errors import CaptureError, SymbolicTraceError
from fxlrp.operation import OneOf, Operation, satisfies
from fxlrp.passes.base import compiler_pass
from fxlrp.program import Program, input_name
from fxlrp.provenance import describe
from fxlrp.vocabulary import SHAPE_ATTRIBUTES


@compiler_pass(needs=["functional"], provides=["canonical"])
def normalize(program: Program) -> int:
    """Rewrite calls of methods and other spellings; return how many nodes were rewritten."""
    count = 0
    # Values computed only from parameters and declared constants, such as standardized weights, need no rule.
    constants: set[fx.Node] = set()
    for node in list(program.graph.nodes):
        is_declared = node.op == "placeholder" and input_name(node) in program.options.constants
        is_computed = bool(node.all_input_nodes) and constants.issuperset(node.all_input_nodes)
        if node.op == "get_attr" or is_declared or is_computed:
            constants.add(node)
        if node.op in ("call_function", "call_method"):
            count += _canonicalize(program, node, node in constants)
    return count


def _canonicalize(program: Program, node: fx.Node, constant: bool) -> int:
    before = (node.op, node.target, node.args, node.kwargs)
    if node.target is getattr:
        return _open_attribute(node)
    spelling = program.vocabulary.spelling(node.target)
    if spelling is None:
        return _method_to_function(node)
    operation = spelling.operation
    try:
        bound = operation.bind(node.args, node.kwargs)
    except TypeError as error:
        raise SymbolicTraceError(f"this form of the call is not supported, {error}: {describe(node)}") from error
    if not constant:
        _check_required(node, operation, bound)
    args, kwargs = operation.call(bound)
    canonical = ("call_function", operation.function, args, kwargs)
    if before == canonical:
        return 0  # assigning takes longer than comparing
    node.op, node.target, node.args, node.kwargs = canonical
    return 1


def _method_to_function(node: fx.Node) -> int:
    if node.op != "call_method":
        return 0
    method = getattr(torch.Tensor, str(node.target), None)
    if method is None:
        raise CaptureError(f"tensors have no method {node.target!r}: {describe(node)}")
    node.op, node.target = "call_function", method
    return 1


def _check_required(node: fx.Node, operation: Operation, bound: dict[str, Any]) -> None:
    for name, required in operation.required_values.items():
        if not satisfies(bound[name], required):
            given, where = f"{operation.name} is called with {name}={bound[name]!r}", describe(node)
            if name == "training":
                hint = "put the model in eval mode before compiling, and pass training=self.training"
                raise CaptureError(f"{given}; {hint}: {where}")
            needed = required if isinstance(required, OneOf) else repr(required)
            # torch.export may capture the call as other operations.
            raise SymbolicTraceError(f"{given}; only {name}={needed} is supported: {where}")


def _result_index(source: Any, name: str) -> int | None:
    """The index of a result that is read by its name, as in ``x.sort().values``; None for other attributes."""
    function = getattr(source.target, "__name__", "") if isinstance(source, fx.Node) else ""
    names: tuple[str, ...] = getattr(getattr(torch.return_types, function, None), "__match_args__", ())
    return names.index(name) if name in names else None


_ATTRIBUTE_METHODS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "mT": (torch.transpose, (-2, -1)),
    "T": (torch.t, ()),
    "data": (torch.Tensor.detach, ()),
    "real": (torch.real, ()),
    "imag": (torch.imag, ()),
}


def _open_attribute(node: fx.Node) -> int:
    value, name = node.args[:2]
    if name in SHAPE_ATTRIBUTES:
        return 0
    index = _result_index(value, str(name))
    if index is not None:
        node.target, node.args = operator.getitem, (value, index)
        return 1
    if name not in _ATTRIBUTE_METHODS:
        raise SymbolicTraceError(f"the attribute {name!r} of a tensor is not supported: {describe(node)}")
    function, rest = _ATTRIBUTE_METHODS[str(name)]
    node.target, node.args = function, (value, *rest)
    return 1

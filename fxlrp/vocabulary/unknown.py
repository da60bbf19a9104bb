"""Rows for functions of torch that the vocabulary does not know, so that a rule can be chosen for them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx.operator_schemas import get_signature_for_torch_op

from fxlrp.operation import Family, Operation
from fxlrp.vocabulary.lookup import Vocabulary


def unknown(function: Callable[..., Any], vocabulary: Vocabulary) -> Operation | None:
    """The row of a function that has a schema in torch; None for any other function.

    Nothing is assumed about the operation: relevance may flow through all tensors, and it has no rule by default.
    """
    signatures = [
        signature
        for signature in get_signature_for_torch_op(_as_function(function)) or ()
        if "out" not in signature.parameters
    ]
    if not signatures:
        return None
    operands = [name for name, parameter in signatures[0].parameters.items() if "Tensor" in str(parameter.annotation)]
    if not operands:
        return None
    name = str(getattr(function, "__name__", function))
    if isinstance(function, OpOverload) or name in vocabulary.operations:
        name = str(function).replace("aten.", "", 1) if isinstance(function, OpOverload) else f"torch.{name}"
    return Operation(
        name,
        Family.UNKNOWN,
        function,
        {},
        tuple(operands),
        multiple_results=_has_several(signatures[0]),
        signatures=tuple(signatures),
    )


def _as_function(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function of torch for a method of tensors, which has no schema of its own."""
    name = getattr(method, "__name__", "")
    is_method = method is getattr(torch.Tensor, name, None)
    function: Callable[..., Any] = getattr(torch, name, method) if is_method else method
    return function


def _has_several(signature: inspect.Signature) -> bool:
    returned = signature.return_annotation
    return isinstance(returned, tuple | list) or str(returned).startswith(
        ("typing.List", "typing.Tuple", "list", "tuple")
    )

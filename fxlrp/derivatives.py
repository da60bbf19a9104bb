"""Derivatives of explanations: what has none is an error that names the node, and never zero."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from fxlrp.answer import Answer
from fxlrp.errors import InputError, UnsupportedOpError
from fxlrp.provenance import describe
from fxlrp.wrapped import is_differentiated, is_inside_derivative

# Autograd records this in place of the derivative of an operation that has none, and fails when it is called.
_MISSING = "NotImplemented"


def check_untracked(arguments: Iterable[Any], parameters: Iterable[Tensor]) -> None:
    """Check that ``torch.func`` does not differentiate an explanation that is not differentiable.

    Such an explanation is computed without gradients, so that its derivative would be zero. TorchDynamo does not tell
    which tensors are differentiated, so that code which it compiles may not call the explainer inside a derivative.

    Raises:
        InputError: An argument or a parameter is differentiated.
    """
    if not is_inside_derivative():
        return
    if torch.compiler.is_dynamo_compiling() or any(
        is_differentiated(each) for each in tree_leaves([*arguments, *parameters]) if isinstance(each, Tensor)
    ):
        raise InputError(
            "torch.func differentiates the explanation, but the explainer computes no derivatives: compile it with "
            "fxlrp.compile(..., differentiable=True)"
        )


def check_derivative(answer: Answer, values: Sequence[Tensor], controls: Mapping[str, Any], returned: Any) -> None:
    """Check that autograd can differentiate the results of a program.

    Args:
        answer: The program.
        values: Its inputs.
        controls: The target, the seed and the conditions, by name.
        returned: What it returned.

    Raises:
        UnsupportedOpError: An operation of the program has no derivative.
    """
    if next(_without_derivative(returned, set()), None) is not None:
        _Search(answer.graph_module).run(*answer.interface.arguments(values, controls))


class _Search(fx.Interpreter):
    """Runs a program node by node until one computes a value without a derivative."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._seen: set[Any] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if next(_without_derivative(result, self._seen), None) is not None:
            raise UnsupportedOpError(
                f"the relevance cannot be differentiated: PyTorch has no derivative of what the {describe(n)} "
                "computes; choose another rule for it, or compile without differentiable=True"
            )
        return result


def _without_derivative(values: Any, seen: set[Any]) -> Iterator[Any]:
    """The nodes of the graph of autograd behind values that have no derivative, without those that were seen before."""
    pending = [value.grad_fn for value in tree_leaves(values) if isinstance(value, Tensor)]
    while pending:
        function = pending.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        if type(function).__name__ == _MISSING:
            yield function
        pending.extend(following for following, _ in function.next_functions)

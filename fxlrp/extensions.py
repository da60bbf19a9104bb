"""Rules for user-defined operations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx.operator_schemas import get_signature_for_torch_op

from fxlrp.arguments import shown
from fxlrp.errors import RuleError
from fxlrp.operation import Family, Operation
from fxlrp.rules.preset import Preset
from fxlrp.rules.specs import Custom, Rule
from fxlrp.vocabulary.lookup import Vocabulary


@dataclass(frozen=True)
class Extension:
    """A function that capture does not trace into, and its relevance rule. :func:`rule_for` returns it.

    Args:
        function: The function that models call.
        rule: Its rule.
        operands: The names of the arguments that receive relevance; None for the first.
        signatures: The signatures of the function.
    """

    function: Callable[..., Any]
    rule: Custom
    operands: tuple[str, ...] | None
    signatures: tuple[inspect.Signature, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the rule, as the decorated function does."""
        return self.rule.function(*args, **kwargs)

    def operation(self, vocabulary: Vocabulary) -> Operation:
        """The operation of the rule: the canonical operation that the function spells, or a new one."""
        known = vocabulary.spelling(self.function)
        operation = known.operation if known else None
        if operation and operation.family is not Family.COMPOSITE and self.operands in (None, operation.operands):
            return operation
        names = self.operands or tuple(self.signatures[0].parameters)[:1]
        name = self.function.__name__
        also = (name,) if _is_torchs(self.function) else ()
        if name in vocabulary.operations:
            name = f"{self.function.__module__}.{self.function.__qualname__}"
        return Operation(name, Family.CUSTOM, self.function, {}, names, aliases=also, signatures=self.signatures)


def rule_for(
    function: Callable[..., Any], operands: Sequence[str] | None = None
) -> Callable[[Callable[..., Any]], Extension]:
    """Declare the decorated function as the relevance rule of ``function``.

    Args:
        function: The function that the model calls, from user code or from torch. Capture does not trace into it. For
            a function that fxlrp knows, in any spelling, the rule replaces its default.
        operands: The names of the arguments that receive relevance. Default: the first argument.

    Returns:
        A decorator for a pure function over torch operations. It is called with those of these values that its
        signature names: the arguments of the call, defaults included, ``out`` (the call's value) and ``relevance`` (the
        value's relevance). It returns the relevance of the operand, or a tuple with one for each of several operands.

    Raises:
        RuleError: The arguments of ``function`` are unknown, or an operand is not one of them.

    Example:
        >>> import torch, fxlrp
        >>> @fxlrp.rule_for(torch.erf)
        ... def erf_relevance(x, *, out, relevance):
        ...     return relevance
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.erf(x).flatten(1)
        >>> explain = fxlrp.compile(Net().eval(), extensions=[erf_relevance])
        >>> explain(torch.ones(1, 2), target=0).shape
        torch.Size([1, 2])
    """
    signatures = _signatures(function)
    name = function.__name__
    is_many = isinstance(operands, Sequence) and not isinstance(operands, str)
    chosen = tuple(operands) if operands is not None and is_many else None
    if operands is not None and (not chosen or not all(isinstance(each, str) for each in chosen)):
        raise RuleError(f"operands of {name} must be a sequence of argument names, not {shown(operands)}")
    fitting = tuple(s for s in signatures if all(_is_operand(s, each) for each in chosen or tuple(s.parameters)[:1]))
    if not fitting:
        known = signatures[0].parameters
        missing = [each for each in chosen or tuple(known)[:1] if not _is_operand(signatures[0], each)]
        raise RuleError(f"{name} has no argument {', '.join(map(repr, missing))}; it has: {', '.join(known)}")

    def declare(relevance: Callable[..., Any]) -> Extension:
        if not callable(relevance):
            raise RuleError(f"the rule of {name} must be a function, not {shown(relevance)}")
        return Extension(function, Custom(relevance), chosen, fitting)

    return declare


def _is_operand(signature: inspect.Signature, name: str) -> bool:
    parameter = signature.parameters.get(name)
    return parameter is not None and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def _signatures(function: Callable[..., Any]) -> tuple[inspect.Signature, ...]:
    if not callable(function) or isinstance(function, type) or not hasattr(function, "__name__"):
        raise RuleError(f"rule_for takes a function, not {shown(function)}")
    try:
        return (inspect.signature(function),)
    except ValueError:
        # Functions written in C have no signature. torch has schemas of its functions, which methods share.
        signatures = get_signature_for_torch_op(function)
        if _is_torchs(function):
            signatures = signatures or get_signature_for_torch_op(getattr(torch, function.__name__, function))
        if not signatures:
            raise RuleError(f"the arguments of {function.__name__} are unknown; wrap it in a Python function") from None
        return tuple(signatures)


def _is_torchs(function: Callable[..., Any]) -> bool:
    """Whether torch provides ``function``, as a function or as a method of tensors."""
    # Functions of torch.special and torch.linalg have the module in their name.
    names = {function.__name__, *(function.__name__.removeprefix(prefix) for prefix in ("special_", "linalg_"))}
    places = (torch, torch.Tensor, torch.nn.functional, torch.special, torch.linalg)
    return any(getattr(place, name, None) is function for place in places for name in names)


def extend(vocabulary: Vocabulary, preset: Preset, extensions: Any) -> tuple[Vocabulary, Preset]:
    """Return the vocabulary and the preset with user-defined operations and their rules.

    Raises:
        RuleError: An extension was not made by :func:`rule_for`, or a function has two rules.
    """
    if not isinstance(extensions, Sequence) or isinstance(extensions, str):
        raise RuleError(
            f"extensions must be a list of functions decorated with @fxlrp.rule_for, not {shown(extensions)}"
        )
    rules: list[tuple[str, Rule]] = []
    for position, extension in enumerate(extensions):
        if not isinstance(extension, Extension):
            raise RuleError(f"{shown(extension)} is not an extension: decorate the rule with @fxlrp.rule_for(function)")
        if any(extension.function is other.function for other in extensions[:position]):
            raise RuleError(f"two extensions have the same function, {extension.function.__name__}: remove one of them")
        operation = extension.operation(vocabulary)
        vocabulary = vocabulary.extend([operation])
        rules.append((operation.name, extension.rule))
    return vocabulary, preset.extend(rules)

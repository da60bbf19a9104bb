"""Replace functions while a model is traced, so that tracing records their calls.

Functions with user-defined rules, and the tensor factories of torch, become nodes. Checks whether a value is a tensor
give the same answer as in the model. Without traced values, as in other threads, the replacements call the functions.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

# Functions that create tensors from sizes, and would need the number of a traced size.
_FACTORIES = ("zeros", "ones", "empty", "full", "arange", "linspace", "eye", "tensor")
_MISSING = object()


@contextmanager
def stand_ins(
    functions: Sequence[Callable[..., Any]],
    copy: nn.Module,
    replaced: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
) -> Iterator[None]:
    """Install the replacements; those of ``functions`` wherever a module or ``copy`` contains them.

    Args:
        functions: The functions with user-defined rules.
        copy: The copy of the model that is traced.
        replaced: Further functions, with their replacements.
    """
    forwards = [getattr(type(module).forward, "__globals__", {}) for module in copy.modules()]
    changed: list[tuple[dict[str, Any], str, Any]] = []

    def put(namespace: dict[str, Any], name: str, value: Any) -> None:
        changed.append((namespace, name, namespace.get(name, _MISSING)))
        namespace[name] = value

    try:
        for name in _FACTORIES:
            put(vars(torch), name, recorded(getattr(torch, name)))
        put(vars(torch), "is_tensor", lambda value: is_instance(value, torch.Tensor))
        for namespace in forwards:
            ours = namespace.get("__name__", "").partition(".")[0] in ("torch", "fxlrp")
            if not ours and "isinstance" not in namespace:
                put(namespace, "isinstance", is_instance)
        others = {**{function: recorded(function) for function in functions}, **(replaced or {})}
        for namespace, name, function in _found(tuple(others), copy, forwards):
            put(namespace, name, others[function])
        yield
    finally:
        for namespace, name, value in reversed(changed):
            if value is _MISSING:
                del namespace[name]
            else:
                namespace[name] = value


def _found(
    functions: Sequence[Callable[..., Any]], copy: nn.Module, forwards: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], str, Callable[..., Any]]]:
    """The namespaces that contain the functions, with their names there."""
    if not functions:
        return
    sought = {id(function): function for function in functions}
    namespaces = [vars(module) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
    namespaces.extend(getattr(function, "__globals__", {}) for function in functions)
    namespaces.extend(vars(module) for module in copy.modules())
    for namespace in (*namespaces, *forwards):
        for name, value in list(namespace.items()):
            if id(value) in sought:
                yield namespace, name, sought[id(value)]


def is_instance(value: Any, classes: Any) -> bool:
    """``isinstance`` in traced code: a traced value is a tensor."""
    return isinstance(value, classes) or (isinstance(value, fx.Proxy) and issubclass(torch.Tensor, classes))


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` such that a call with traced values becomes a node."""

    @functools.wraps(function)
    def record(*args: Any, **kwargs: Any) -> Any:
        traced = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, fx.Proxy)]
        if not traced:
            return function(*args, **kwargs)
        return traced[0].tracer.create_proxy("call_function", function, args, kwargs)

    return record

"""Selectors: how a rule names the nodes that it is for."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import fx, nn

from fxlrp.errors import RuleError
from fxlrp.operation import Operation
from fxlrp.provenance import module_stack


@dataclass(frozen=True)
class FirstLayer:
    """Selects every linear map that reads a model input through relevance-neutral operations only."""

    def __str__(self) -> str:
        """How the selector is shown in a table."""
        return "first layer"


Selector: TypeAlias = "str | type[nn.Module] | Callable[[fx.Node], bool] | FirstLayer"


@dataclass(frozen=True)
class Candidate:
    """A node with the facts that selectors look at."""

    node: fx.Node
    operation: Operation
    first_layer: bool


def check_selector(selector: Selector, operations: Mapping[str, Operation]) -> None:
    """Refuse what cannot be a selector.

    Raises:
        RuleError: Neither a module class, a name or glob, nor a predicate.
    """
    if isinstance(selector, type) and not issubclass(selector, nn.Module):
        hint = ": give an instance, FirstLayer()" if selector is FirstLayer else ""
        raise RuleError(f"the selector {selector.__name__} is a class, but not one of modules{hint}")
    if not (isinstance(selector, str | FirstLayer) or callable(selector)):
        raise RuleError(
            f"{selector!r} is not a selector: give a module class (nn.Conv2d), a glob on the module path "
            f"('layer4.*'), an operation ('add') or a predicate on the node"
        )


def matches(selector: Selector, candidate: Candidate, operations: Mapping[str, Operation]) -> bool:
    """Whether ``selector`` selects the node: the one place that gives selectors their meaning.

    A module class and a glob select every operation inside the module, also in its submodules. A string that is
    the name of a canonical operation selects that operation, any other string is a glob on the module path.
    """
    if isinstance(selector, FirstLayer):
        return candidate.first_layer
    if isinstance(selector, str):
        if selector in operations:
            return candidate.operation.name == selector
        return any(fnmatch.fnmatchcase(path, selector) for path, _ in module_stack(candidate.node))
    if isinstance(selector, type):
        return any(issubclass(cls, selector) for _, cls in module_stack(candidate.node))
    return bool(selector(candidate.node))


def describe(selector: Selector) -> str:
    """The selector in a few words, for tables and errors."""
    if isinstance(selector, str | FirstLayer):
        return str(selector)
    return str(getattr(selector, "__name__", selector))

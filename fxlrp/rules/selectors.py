"""Selectors: which nodes a rule is for."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from torch import fx, nn

from fxlrp.arguments import shown
from fxlrp.errors import RuleError
from fxlrp.operation import Operation
from fxlrp.provenance import module_stack


@dataclass(frozen=True)
class FirstLayer:
    """Selects every linear map that reads a model input directly or through neutral operations only.

    Neutral operations are shape operations, activations, and sums and products with constants.
    """

    def __str__(self) -> str:
        """The name that tables show."""
        return "first layer"


@dataclass(frozen=True)
class Inside:
    """Selects every operation of a module and of the modules inside it. A module as selector becomes this.

    Args:
        paths: The paths of the module; several if the model contains it more than once.
    """

    paths: tuple[str, ...]

    def __str__(self) -> str:
        """The name that tables show."""
        return ", ".join(self.paths) or "the model"

    def includes(self, path: str) -> bool:
        """Whether the module at ``path`` is the module or inside it."""
        return any(not own or path == own or path.startswith(f"{own}.") for own in self.paths)


Selector: TypeAlias = "str | type[nn.Module] | nn.Module | Callable[[fx.Node], bool] | FirstLayer | Inside"


@dataclass(frozen=True)
class Candidate:
    """A node, and the facts that selectors read."""

    node: fx.Node
    operation: Operation
    first_layer: bool


def located(selector: Selector, model: nn.Module | None) -> Selector:
    """Replace a module by its paths in the model; return any other selector unchanged.

    Raises:
        RuleError: The model does not contain the module, or is unknown.
    """
    if not isinstance(selector, nn.Module):
        return selector
    modules = () if model is None else model.named_modules(remove_duplicate=False)
    paths = tuple(path for path, module in modules if module is selector)
    if not paths:
        raise RuleError(
            f"the selector {type(selector).__name__}(...) is a module, but not one of the model: use a module of the "
            "model that is explained, or select by its path or its class"
        )
    return Inside(paths)


def check_selector(selector: Selector, operations: Mapping[str, Operation]) -> None:
    """Check that ``selector`` can be a selector.

    Raises:
        RuleError: It is not a module, a module class, a name, a glob or a predicate.
    """
    if isinstance(selector, type) and not issubclass(selector, nn.Module):
        hint = ": use an instance, FirstLayer()" if selector is FirstLayer else ""
        raise RuleError(f"the selector {selector.__name__} is a class, but not a module class{hint}")
    if not (isinstance(selector, str | FirstLayer | Inside) or callable(selector)):
        raise RuleError(
            f"{shown(selector)} is not a selector: use a module class (nn.Conv2d), a module of the model, a glob on "
            "the module path ('layer4.*'), an operation ('add'), the name of a node ('add_1') or a predicate"
        )


def matches(selector: Selector, candidate: Candidate, operations: Mapping[str, Operation]) -> bool:
    """Whether ``selector`` selects the node. Only this function defines what selectors mean.

    A module, a module class and a glob select every operation inside the module, submodules included. A string that is
    the name of a canonical operation selects that operation. Any other string is the name of a node, as the table shows
    it, or a glob on the module path.
    """
    if isinstance(selector, FirstLayer):
        return candidate.first_layer
    if isinstance(selector, str):
        if selector in operations:
            return candidate.operation.name == selector
        if candidate.node.name == selector:
            return True
        return any(fnmatch.fnmatchcase(path, selector) for path, _ in module_stack(candidate.node))
    if isinstance(selector, Inside):
        return any(selector.includes(path) for path, _ in module_stack(candidate.node))
    if isinstance(selector, type):
        return any(issubclass(cls, selector) for _, cls in module_stack(candidate.node))
    return bool(cast("Callable[[fx.Node], bool]", selector)(candidate.node))


def describe(selector: Selector) -> str:
    """A short description of the selector, for tables and errors."""
    if isinstance(selector, str | FirstLayer | Inside):
        return str(selector)
    return str(getattr(selector, "__name__", selector))

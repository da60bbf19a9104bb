"""Paths in a model that generated code cannot spell: modules named by keywords, or with quotes or newlines.

``torch.fx`` writes ``self.model.class.weight`` into the code of a graph, which Python does not accept. Graphs read such
a tensor through a child of their root, in which every element of the path is a Python name.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.fx.graph
from torch import nn

from fxlrp.provenance import MODEL

# The child of the root that reads the model under escaped names.
ESCAPED = "escaped"
_PREFIX = "named_"


class EscapedPaths(nn.Module):
    """Reads the attributes of a module by escaped names; the module is not a child of it."""

    def __init__(self, module: nn.Module) -> None:
        """Read ``module``."""
        super().__init__()
        vars(self)["_module"] = module

    def __getattr__(self, name: str) -> Any:
        """The tensor, or the module below, with an escaped name."""
        module = vars(self).get("_module")
        if module is None or name.startswith("__"):
            raise AttributeError(name)
        value = getattr(module, bytes.fromhex(name.removeprefix(_PREFIX)).decode() if _is_escaped(name) else name)
        return EscapedPaths(value) if isinstance(value, nn.Module) else value


def spelled(path: str) -> str:
    """The path at which a graph reads the attribute of the model at ``path``: another one if code cannot spell it."""
    head, *elements = path.split(".")
    if head != MODEL or all(map(_is_plain, elements)):
        return path
    return ".".join((ESCAPED, *(each if _is_plain(each) else f"{_PREFIX}{each.encode().hex()}" for each in elements)))


def _is_escaped(name: str) -> bool:
    return name.startswith(_PREFIX)


def _is_plain(name: str) -> bool:
    """Whether code can spell an element of a path; torch.fx quotes what is not a Python name."""
    quotable = name.isprintable() and not {'"', "\\"}.intersection(name)
    return quotable and not keyword.iskeyword(name) and not _is_escaped(name)


@contextmanager
def any_name_in_code() -> Iterator[None]:
    """Let ``torch.fx`` spell every path in code, as ``torch.export`` needs it in between; hold the lock of capture."""
    original = torch.fx.graph._format_target

    def format_target(base: str, target: str) -> str:
        for element in target.split("."):
            base = (
                f"{base}.{element}"
                if _is_plain(element) and element.isidentifier()
                else f"getattr({base}, {element!r})"
            )
        return base

    torch.fx.graph._format_target = format_target
    try:
        yield
    finally:
        torch.fx.graph._format_target = original

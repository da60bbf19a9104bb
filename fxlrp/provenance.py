"""The provenance of a node: its module and the user's source line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from fxlrp import errors

# The root that capture traces contains the user's model under this name, so that every
# ``get_attr`` of the generated program reads the live model.
MODEL = "model"

_NOT_THE_USERS = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, errors.__file__))


def is_users_file(name: str) -> bool:
    """Whether a source file belongs neither to torch nor to fxlrp."""
    return not name.startswith(_NOT_THE_USERS)


class ModuleCall(NamedTuple):
    """A call of a module that created a node.

    Args:
        key: Differs between the calls of a module that is called several times.
        path: The path of the module below the model; empty for the model itself.
        cls: Its class.
    """

    key: str
    path: str
    cls: type[nn.Module]


def module_calls(node: fx.Node) -> tuple[ModuleCall, ...]:
    """The calls of modules in which the node was created, outermost first."""
    calls = []
    for key, (path, cls) in node.meta.get("nn_module_stack", {}).items():
        head, _, below = path.partition(".")
        if head == MODEL and isinstance(cls, type):
            calls.append(ModuleCall(key, below, cls))
    return tuple(calls)


def module_stack(node: fx.Node) -> list[tuple[str, type[nn.Module]]]:
    """The modules whose forward created the node, outermost first: path below the model, and class."""
    return [(call.path, call.cls) for call in module_calls(node)]


def module_path(node: fx.Node) -> str:
    """The path of the innermost module that created the node; empty for the model itself."""
    calls = module_calls(node)
    return calls[-1].path if calls else ""


def is_inside(node: fx.Node, path: str) -> bool:
    """Whether the module at ``path``, or one inside it, created the node."""
    return any(below == path for below, _ in module_stack(node))


def source_line(node: fx.Node) -> str:
    """The line of the user's code that created the node, as ``file:line: code``; empty if unknown."""
    trace = (node.stack_trace or "").strip().splitlines()
    if not trace:
        return ""
    where, *code = trace[-2:] if len(trace) > 1 else trace
    file, line = where.strip().removeprefix("File ").split(", ")[:2]
    text = f": {code[0].strip()}" if code else ""
    return f"{file.strip(chr(34))}:{line.removeprefix('line ')}{text}"


def describe(node: fx.Node, operation: str | None = None) -> str:
    """Describe a node for error messages: name, operation, module and source line."""
    parts = [f"node {node.name!r}", f"operation {operation or operation_name(node)}"]
    stack = module_stack(node)
    if stack and stack[-1][0]:
        parts.append(f"module {stack[-1][0]!r} ({stack[-1][1].__name__})")
    line = source_line(node)
    if line:
        parts.append(f"at {line}")
    return ", ".join(parts)


def operation_name(node: fx.Node) -> str:
    """The name of the function, method or module that a node calls."""
    if node.op == "call_module":
        return module_stack(node)[-1][1].__name__
    if isinstance(node.target, str):
        return node.target
    target = node.target
    module = (getattr(target, "__module__", None) or "").removeprefix("torch._C").strip(".")
    name = str(getattr(target, "__name__", target))
    return f"{module}.{name}" if module and not module.startswith("_") else name


def provenance(node: fx.Node) -> dict[str, Any]:
    """The metadata of the provenance of ``node``, for the nodes that are created from it."""
    return {key: node.meta[key] for key in ("nn_module_stack", "stack_trace") if key in node.meta}

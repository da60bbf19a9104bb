"""The generated program as readable Python."""

from __future__ import annotations

import re

import torch
from torch import fx

_FUNCTIONAL = re.compile(r"\btorch\.(?:_C\._nn|nn\.functional)\.")
# The bare names that torch.fx uses in generated code.
_BARE = {"inf": "from math import inf", "nan": "from math import nan", "device": "from torch import device"}


def program_text(graph_module: fx.GraphModule) -> str:
    """The program as Python source, with imports and short names, and without statements that free values."""
    return graph_text(graph_module.graph)


def graph_text(graph: fx.Graph) -> str:
    """A graph as Python source, in the same form."""
    python = graph.python_code("self")
    text = re.sub(r";  (?:\w+ = )+None$", "", python.src.strip(), flags=re.MULTILINE)
    taken = {node.name for node in graph.nodes}
    header = ["import torch", *(line for name, line in _BARE.items() if re.search(rf"\b{name}\b", text))]
    if "F" not in taken:
        text, count = _FUNCTIONAL.subn("F.", text)
        header += ["import torch.nn.functional as F"] * (count > 0)
    for name, value in python.globals.items():
        module, own_name = getattr(value, "__module__", None) or "", getattr(value, "__name__", "")
        if not re.search(rf"\b{name}\b", text) or module.startswith(("torch", "builtins")):
            continue
        if value is vars(torch.Tensor).get(own_name) or value is vars(torch.Tensor.__base__).get(own_name):
            text = re.sub(rf"\b{name}\b", f"torch.Tensor.{own_name}", text)
        elif module and value.__qualname__ == own_name and own_name.isidentifier():
            short = own_name if own_name not in taken else name
            taken.add(short)
            text = re.sub(rf"\b{name}\b", short, text)
            header.append(f"from {module} import {own_name}" + (f" as {short}" if short != own_name else ""))
        elif module:
            # A lambda, or a function inside a function.
            header.append(f"# {name} is {module}.{value.__qualname__}, which cannot be imported")
    return "\n".join([*header, "", "", text, ""])

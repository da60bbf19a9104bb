"""Rows that are written as schemas, such as ``index_add(input*, dim, index, source*, alpha=1)``.

A star marks an operand, through which relevance may flow. ``fft.rfft`` names ``torch.fft.rfft``; its canonical name is
``fft_rfft``, as in ATen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F

from fxlrp.operation import REQUIRED, Family, Operation


def rows(family: Family, schemas: str, **options: Any) -> Iterator[Operation]:
    """The rows of a family, one schema a line.

    Args:
        family: The family of all rows.
        schemas: The schemas. Empty lines are ignored.
        options: Facts that hold for all rows.
    """
    for line in filter(None, map(str.strip, schemas.splitlines())):
        yield row(family, line, **options)


def row(family: Family, schema: str, function: Callable[..., Any] | None = None, **options: Any) -> Operation:
    """The row of one schema. ``function`` is needed if the name does not tell which function of torch it is."""
    matched = re.fullmatch(r"([\w.]+)\((.*)\)", schema)
    assert matched is not None, schema
    path, declared = matched.groups()
    operands = tuple(re.findall(r"(\w+)\*", declared))
    return Operation(
        path.replace(".", "_"),
        family,
        function or _function(path),
        _parameters(declared.replace("*", "")),
        operands,
        **options,
    )


def _parameters(declared: str) -> dict[str, Any]:
    """The parameters by name, with their defaults."""
    arguments = ast.parse(f"lambda {declared}: None", mode="eval").body
    assert isinstance(arguments, ast.Lambda)
    names = [argument.arg for argument in arguments.args.args]
    defaults = [ast.literal_eval(value) for value in arguments.args.defaults]
    required = len(names) - len(defaults)
    return dict(zip(names, [REQUIRED] * required + defaults, strict=True))


# The functions of torch.nn.functional take the name of a reduction, those of torch with the same name its number.
_NAMESPACES: tuple[Any, ...] = (F, torch, torch.Tensor)


def _function(path: str) -> Callable[..., Any]:
    for namespace in _NAMESPACES:
        try:
            found: Callable[..., Any] = reduce(getattr, path.split("."), namespace)
        except AttributeError:
            continue
        if callable(found) and not isinstance(found, torch.dtype):
            return found
    raise AttributeError(f"torch has no function {path}")

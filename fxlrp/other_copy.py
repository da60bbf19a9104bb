"""Whether another model is a copy of the one that was compiled: the same structure, with other weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxlrp.errors import InputError

_OF_EVERY_MODULE = {*vars(nn.Module()), "training"}
_SIMPLE = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)


def check_is_copy(model: nn.Module, other: nn.Module) -> None:
    """Check that the program of ``model`` is also that of ``other``.

    The classes and paths of the modules must be the same, the names, shapes, types and devices of parameters and
    buffers, and everything that the program contains as a constant: numbers, names and tensors among the attributes.

    Raises:
        InputError: They differ; the message says where.
    """
    if not isinstance(other, nn.Module):
        raise InputError(f"on() takes a model, not a {type(other).__name__}")
    for why in _differences(model, other):
        raise InputError(f"the model is not a copy of the one that was compiled: {why}. Compile it with fxlrp.compile")


def is_copy(model: nn.Module, other: nn.Module) -> bool:
    """Return whether the program of ``model`` is also that of ``other``; see :func:`check_is_copy`."""
    return isinstance(other, nn.Module) and next(_differences(model, other), None) is None


def _differences(model: nn.Module, other: nn.Module) -> Iterator[str]:
    """What is different. Only the first one is certain to be described correctly."""
    yield from _compare(dict(_classes(model)), dict(_classes(other)), "module")
    yield from _compare(dict(_tensors(model)), dict(_tensors(other)), "parameter or buffer")
    registered = _Registered(model, other)
    for (path, module), copied in zip(model.named_modules(), other.modules(), strict=True):
        if module.extra_repr() != copied.extra_repr():
            yield f"the module {path!r} is {copied}, not {module}"
        for name in sorted(_own(module).keys() | _own(copied).keys()):
            if not _equal(vars(module).get(name), vars(copied).get(name), registered):
                yield f"the attribute {name!r} of the module {path!r} has another value"


def _compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], what: str) -> Iterator[str]:
    for name in sorted(ours.keys() ^ theirs.keys()):
        yield f"it {'does not have' if name in ours else 'also has'} the {what} {name!r}"
    for name, fact in ours.items():
        if theirs[name] != fact:
            yield f"the {what} {name!r} is {_text(theirs[name])}, not {_text(fact)}"


def _text(fact: Any) -> str:
    return fact.__name__ if isinstance(fact, type) else " ".join(map(str, fact))


def _classes(model: nn.Module) -> Iterator[tuple[str, type]]:
    for path, module in model.named_modules():
        yield path, type(module)


def _tensors(model: nn.Module) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        yield name, (tuple(value.shape), value.dtype, value.device)


def _own(module: nn.Module) -> dict[str, Any]:
    """The attributes that a program may contain as constants."""
    return {
        name: value
        for name, value in vars(module).items()
        if name not in _OF_EVERY_MODULE and isinstance(value, (*_SIMPLE, Tensor, list, tuple, dict))
    }


class _Registered:
    """The parameters and buffers of both models, which attributes may list, as those of recurrent layers do."""

    def __init__(self, model: nn.Module, other: nn.Module) -> None:
        self._ours, self._theirs = dict(self._names(model)), dict(self._names(other))

    @staticmethod
    def _names(model: nn.Module) -> Iterator[tuple[int, str]]:
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            yield id(value), name

    def correspond(self, one: Tensor, other: Tensor) -> bool:
        """Whether the tensors are a parameter or buffer of their models, of the same name."""
        name = self._ours.get(id(one))
        return name is not None and name == self._theirs.get(id(other))


def _equal(one: Any, other: Any, registered: _Registered) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one is other or registered.correspond(one, other):
            return True
        return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_equal(*pair, registered) for pair in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key], registered) for key in one)
    if isinstance(one, _SIMPLE) or isinstance(other, _SIMPLE):
        return type(one) is type(other) and bool(one == other)
    # Another object, such as a function or a configuration, which both copies may have of their own.
    return type(one) is type(other)

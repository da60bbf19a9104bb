"""Copies of a model that share its tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import NoneType
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from fxlrp.capture.sharded_modules import put_copies_of_sharded_modules


def copy_with_shared_tensors(model: nn.Module) -> nn.Module:
    """Return a copy of the modules of ``model``, with the same tensors.

    A tensor in the instance dictionary of a module hides a parameter or buffer of the same name, which other libraries
    leave behind. In the copy it takes the place of the hidden one.
    """
    shared = {id(tensor): tensor for module in model.modules() for tensor in _tensors(module)}
    memo: dict[int, Any] = {**_copies_of_empty(model), **shared}
    put_copies_of_sharded_modules(model, memo)
    copied: nn.Module = copy.deepcopy(model, memo)
    for module in copied.modules():
        for name, value in _hiding(module).items():
            del module.__dict__[name]
            module._parameters.pop(name, None)
            if isinstance(value, nn.Parameter):
                module._parameters[name] = value
            else:
                module._buffers[name] = value
    return copied


def _hiding(module: nn.Module) -> dict[str, Tensor]:
    registered = module._parameters.keys() | module._buffers.keys()
    return {name: value for name, value in vars(module).items() if name in registered and isinstance(value, Tensor)}


def _tensors(module: nn.Module) -> list[Tensor]:
    """The tensors of a module, its parameters and buffers among them, without those of its submodules."""
    own = [value for value in vars(module).values() if not isinstance(value, _SCALARS) and not _is_empty(value)]
    return [value for value in pytree.tree_leaves(own) if isinstance(value, Tensor)]


def _copies_of_empty(model: nn.Module) -> dict[int, Any]:
    """A memo for :func:`copy.deepcopy` with the empty containers of a model, which it copies slowly.

    A module has a dozen for its hooks.
    """
    values = (value for module in model.modules() for value in vars(module).values())
    return {id(value): type(value)() for value in values if _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return type(value) in _CONTAINERS and not value


_SCALARS = (bool, int, float, str, NoneType)
_CONTAINERS = (dict, OrderedDict, set)

"""Evaluate constants during ``torch.export``, so that conditions may look at them.

``torch.export`` runs a model on tensors without values, and refuses ``if mask.any()`` also where the mask is made of
numbers alone, such as a causal mask of a fixed length. This mode computes such tensors a second time, with values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

# They return memory that is not initialized.
_WITHOUT_VALUES = frozenset(
    ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted")
)


class _Constant(NamedTuple):
    """A traced tensor, its values, and its version: a change in place makes the values invalid."""

    traced: Tensor
    value: Tensor
    version: int


class KnownConstants(TorchFunctionMode):
    """Answers what conditions read of tensors that do not depend on inputs, parameters or open sizes."""

    def __init__(self) -> None:
        """Start without any constant."""
        super().__init__()
        # By the id of the traced tensor, which is kept, so that the id is not used again.
        self._constants: dict[int, _Constant] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``; where all tensors that it reads are constants, compute it with values as well."""
        kwargs = kwargs or {}
        leaves = list(_leaves((args, kwargs)))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        is_constant = all(self._is_known(tensor) for tensor in tensors) and not any(
            isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool) for leaf in leaves
        )
        if not is_constant or getattr(func, "__name__", "") in _WITHOUT_VALUES:
            return func(*args, **kwargs)
        if not tensors:
            result = func(*args, **kwargs)
            # What makes no tensor, such as a change of a mode, must not run twice.
            return self._noted(result, *self._with_values(func, args, kwargs)) if _tensors(result) else result
        values, is_random = self._with_values(func, args, kwargs)
        if values is not None and not _tensors(values) and not is_random:
            return values
        result = func(*args, **kwargs)
        if not is_random:
            self._refresh(tensors)
        return self._noted(result, values, is_random)

    def _noted(self, result: Any, values: Any, is_random: bool) -> Any:
        """The result of a call, whose values are known from now on."""
        if not is_random:
            for traced, value in zip(_tensors(result), _tensors(values), strict=True):
                self._constants[id(traced)] = _Constant(traced, value, traced._version)
        return result

    def _is_known(self, tensor: Tensor) -> bool:
        constant = self._constants.get(id(tensor))
        return constant is not None and constant.version == tensor._version

    def _with_values(self, func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, bool]:
        """The result of a call with values, and whether it is random."""
        args, kwargs = pytree.tree_map_only(Tensor, lambda tensor: self._constants[id(tensor)].value, (args, kwargs))
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            before = _random_states()
            result = func(*args, **kwargs)
            is_random = not all(map(torch.equal, before, _random_states()))
            torch.random.set_rng_state(before[0])
            if len(before) > 1:
                torch.cuda.set_rng_state(before[1])
        return result, is_random

    def _refresh(self, tensors: Sequence[Tensor]) -> None:
        """Keep the values of all constants in memory that a call on constants has changed, also in the values."""
        changed = {_memory(tensor) for tensor in tensors if not self._is_known(tensor)}
        for key, constant in self._constants.items() if changed else ():
            if _memory(constant.traced) in changed:
                self._constants[key] = constant._replace(version=constant.traced._version)


def _random_states() -> list[Tensor]:
    """The states of the generators of random numbers."""
    return [torch.random.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]


def _leaves(value: Any) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, slice):
            yield from (leaf.start, leaf.stop, leaf.step)
        else:
            yield leaf


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address

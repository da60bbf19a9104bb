"""Evaluate constants during ``torch.export``, so that conditions may look at them.

``torch.export`` runs a model on tensors without values, and refuses ``if mask.any()`` also where the mask is made of
numbers alone, such as a causal mask of a fixed length. This mode computes such tensors a second time, with values.

Inputs may be among them. What the model reads of their values becomes a guard of the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from fxlrp.capture.value_guards import Place, Tape, is_plain

# They return memory that is not initialized.
_WITHOUT_VALUES = frozenset(
    ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted")
)


class _Constant(NamedTuple):
    """A traced tensor, its values, and its version: a change in place makes the values invalid."""

    traced: Tensor
    value: Tensor
    version: int
    place: Place
    of_input: bool


class KnownConstants(TorchFunctionMode):
    """Answers what conditions read of tensors that depend on known inputs alone: not on parameters or open sizes."""

    def __init__(self, tape: Tape) -> None:
        """Start without any constant, and record on ``tape`` from its beginning."""
        super().__init__()
        # By the id of the traced tensor, which is kept, so that the id is not used again.
        self._constants: dict[int, _Constant] = {}
        self._tape = tape
        tape.clear()

    def know(self, traced: Tensor, value: Tensor, position: int, name: str) -> None:
        """Declare that the values of an input are those of its example."""
        with _disable_current_modes():
            value = value.clone()  # the model may change it in place
        place = self._tape.source(position, name, value)
        self._constants[id(traced)] = _Constant(traced, value, traced._version, place, True)

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
            return self._noted(result, func, args, kwargs) if _tensors(result) else result
        of_input = any(self._constants[id(tensor)].of_input for tensor in tensors)
        if of_input and not self._reads_values(func, args, kwargs):
            return func(*args, **kwargs)
        values, is_random = self._with_values(func, args, kwargs)
        if values is not None and not _tensors(values) and not is_random and (is_plain(values) or not of_input):
            if of_input:
                self._tape.read(func, args, kwargs, self._place_of, values)
            return values
        if of_input and isinstance(values, tuple | list):
            # The number of results may depend on a size, which torch.export must know.
            sized = {id(tensor): self._with_known_size(tensor) for tensor in tensors}
            result = func(*pytree.tree_map_only(Tensor, lambda each: sized[id(each)], args), **kwargs)
        else:
            result = func(*args, **kwargs)
        if not is_random:
            self._refresh(tensors, of_input)
            self._note(result, values, func, args, kwargs)
        return result

    def _with_known_size(self, tensor: Tensor) -> Tensor:
        """A tensor of which ``torch.export`` does not know a size, element by element of that dimension."""
        # Imported here: it needs sympy, which torch.export has imported by now.
        from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

        for dim, size in enumerate(tensor.shape):
            if free_unbacked_symbols(size):
                known = self._value(tensor).shape[dim]
                self._tape.read(torch.Tensor.size, (tensor, dim), {}, self._place_of, known)
                parts = [tensor.select(dim, index) for index in range(known)]
                return torch.stack(parts, dim) if parts else tensor.new_empty(self._value(tensor).shape)
        return tensor

    def _reads_values(self, func: Callable[..., Any], args: Any, kwargs: Any) -> bool:
        """Whether the result of a call on tensors, if it is not one itself, depends on values: not a size or a type."""
        try:
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                args, kwargs = pytree.tree_map_only(Tensor, lambda each: self._value(each).to("meta"), (args, kwargs))
                result = func(*args, **kwargs)
        except (RuntimeError, TypeError):
            return True  # tensors without values have no answer
        return result is None or result == () or bool(_tensors(result))

    def _noted(self, result: Any, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of a call that reads no tensors, whose values are known from now on."""
        values, is_random = self._with_values(func, args, kwargs)
        if not is_random:
            self._note(result, values, func, args, kwargs)
        return result

    def _note(self, result: Any, values: Any, func: Any, args: Any, kwargs: Any) -> None:
        """Keep the values of the result of a call."""
        traced, known = _tensors(result), _tensors(values)
        of_input = any(self._constants[id(tensor)].of_input for tensor in _tensors((args, kwargs)))
        places = self._tape.call(func, args, kwargs, self._place_of, len(known))
        for tensor, value, place in zip(traced, known, places, strict=True):
            self._constants[id(tensor)] = _Constant(tensor, value, tensor._version, place, of_input)

    def _value(self, tensor: Tensor) -> Tensor:
        return self._constants[id(tensor)].value

    def _place_of(self, tensor: Tensor) -> Place:
        return self._constants[id(tensor)].place

    def _is_known(self, tensor: Tensor) -> bool:
        constant = self._constants.get(id(tensor))
        return constant is not None and constant.version == tensor._version

    def _with_values(self, func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, bool]:
        """The result of a call with values, and whether it is random."""
        args, kwargs = pytree.tree_map_only(Tensor, self._value, (args, kwargs))
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            before = _random_states()
            result = func(*args, **kwargs)
            is_random = not all(map(torch.equal, before, _random_states()))
            torch.random.set_rng_state(before[0])
            if len(before) > 1:
                torch.cuda.set_rng_state(before[1])
        return result, is_random

    def _refresh(self, tensors: Sequence[Tensor], of_input: bool) -> None:
        """Keep the values of all constants in memory that a call on constants has changed, also in the values."""
        changed = {_memory(tensor) for tensor in tensors if not self._is_known(tensor)}
        for key, constant in self._constants.items() if changed else ():
            if _memory(constant.traced) in changed:
                version = constant.traced._version
                self._constants[key] = constant._replace(version=version, of_input=of_input or constant.of_input)


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

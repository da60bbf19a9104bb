"""Build something from a model and its inputs: immediately, or on the inputs of the first call.

A front end may fix sizes. The first call with another size, or with more arguments, builds again.
"""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fxlrp.capture.lock import is_compiling
from fxlrp.errors import FxlrpError, InputError
from fxlrp.inputs import ExamplesNeeded, Inputs, Misfit
from fxlrp.signature import Signature


class Captured(Protocol):
    """What was built, with the calls that it takes."""

    @property
    def signature(self) -> Signature:
        """The arguments that a call accepts."""


T = TypeVar("T", bound=Captured)

# How many are kept. Where every call has another size, all of them are built again in turn.
_KEPT = 16


class NotCapturedError(InputError, AttributeError):
    """The requested information is available only after the model has been captured."""


_WHILE_COMPILING = (
    "torch.export captured the model for other sizes or arguments than those of this call, and it is not captured "
    "again while the explainer is compiled or exported: call it once with such inputs before"
)


def _reason(signature: Signature, values: tuple[Any, ...] | Misfit) -> str:
    """Why a call does not fit."""
    if isinstance(values, Misfit):
        return values.message
    misfit = signature.misfit(values)
    return misfit() if misfit is not None else "the inputs do not fit"


def _shapes(values: Sequence[Tensor]) -> tuple[torch.Size, ...]:
    return tuple(value.shape for value in values)


_LOCKED: weakref.WeakSet[Any] = weakref.WeakSet()


def _unlock_all() -> None:
    for made in tuple(_LOCKED):
        made._unlock()


# In a forked process, the thread that holds the lock of a first call does not exist.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_all)


class MadeOnInputs(Generic[T]):
    """A value that is built from a model and its inputs: immediately if possible, else at the first call.

    It is built again for calls that it does not take, because of their sizes or of further arguments. Several threads
    may call at the same time: one builds the value, and the others wait for it.
    """

    def __init__(self, make: Callable[[nn.Module, Inputs], T], model: nn.Module, examples: Any) -> None:
        """Build the value on ``examples``, if they are given or not needed.

        Args:
            make: Builds the value from the model and its inputs.
            model: The model.
            examples: The example inputs; None for the inputs of the first call, if the model needs any.
        """
        self._make = make
        self._unlock()
        self._made: tuple[T, ...] = ()
        self._latest: T | None = None
        self._refused: set[tuple[int, tuple[torch.Size, ...]]] = set()
        self._reason = ""
        try:
            self._keep(make(model, Inputs.of(model, examples)))
        except ExamplesNeeded as needed:
            if examples is not None:
                raise
            self._reason = needed.reason

    def on_call(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[T, tuple[Tensor, ...]]:
        """Return the value that takes a call, and the inputs of the call in the order of the program's inputs.

        Raises:
            InputError: An input is missing, unknown, given twice, or does not fit.
        """
        if not self._made:
            with self._lock:
                if not self._made:
                    self._keep(self._make(model, Inputs.of_call(model, args, kwargs)))
        found = self._that_takes(model, args, kwargs)
        if found is None:
            found = self._made_again(model, args, kwargs)
        if not is_compiling():
            self._latest = found[0]
        return found

    def refuse(self, made: T, values: Sequence[Tensor]) -> None:
        """Do not return a value again for inputs of these sizes, which it turned out not to take."""
        self._refused.add((id(made), _shapes(values)))

    def _is_refused(self, made: T, values: Sequence[Tensor]) -> bool:
        # The sizes may be symbolic, which cannot be looked up, but then nothing has been refused.
        return bool(self._refused) and (id(made), _shapes(values)) in self._refused

    def _that_takes(
        self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[T, tuple[Tensor, ...]] | None:
        parameter = next(model.parameters(), None)
        for position, made in enumerate(self._made):
            values = made.signature.inputs.match(args, kwargs)
            if isinstance(values, Misfit):
                if position == 0 and not values.has_more:
                    raise InputError(values.message)
                continue
            made.signature.check(values, parameter)
            if made.signature.misfit(values) is None and not self._is_refused(made, values):
                return made, values
        return None

    def _made_again(
        self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[T, tuple[Tensor, ...]]:
        """Build the value for a call that the others do not take.

        Raises:
            InputError: It cannot be built for this call.
        """
        if is_compiling():
            raise InputError(_WHILE_COMPILING)
        first = self._made[0].signature
        values = first.inputs.match(args, kwargs)
        with self._lock:
            found = self._that_takes(model, args, kwargs)
            if found is not None:
                return found
            try:
                more = isinstance(values, Misfit)
                inputs = first.inputs.extended(model, args, kwargs) if more else first.inputs.with_values(values)
                self._keep(self._make(model, inputs))
            except (FxlrpError, ExamplesNeeded) as error:
                reason = _reason(first, values)
                raise InputError(f"{reason}. Capturing the model for this call fails: {error}") from error
        found = self._that_takes(model, args, kwargs)
        if found is None:
            raise InputError(_reason(first, values))
        return found

    def _keep(self, made: T) -> None:
        """Keep a value. The first one, which says what the inputs are, is never dropped."""
        self._latest = made
        self._made = (*self._made[:1], *self._made[1:][2 - _KEPT :], made)

    def mapped(self, function: Callable[[T], T]) -> MadeOnInputs[T]:
        """Return a copy with a function of everything that has been built."""
        other = copy.copy(self)  # with a lock of its own
        images = {id(made): function(made) for made in self._made}
        other._made = tuple(images[id(made)] for made in self._made)
        other._latest = None if self._latest is None else images[id(self._latest)]
        other._refused = {(id(images[made]), shapes) for made, shapes in self._refused if made in images}
        return other

    @property
    def all(self) -> tuple[T, ...]:
        """Everything that has been built and is kept."""
        return self._made

    @property
    def is_made(self) -> bool:
        """Whether the value has been built."""
        return bool(self._made)

    def require(self, what: str) -> T:
        """Return the value that took the latest call.

        Args:
            what: What the value is needed for, in words.

        Raises:
            NotCapturedError: The value has not been built.
        """
        if self._latest is None:
            raise NotCapturedError(
                f"{what} is not known yet: the model is captured at the first call, or immediately if example_inputs "
                f"are given ({self._reason})"
            )
        return self._latest

    def __getstate__(self) -> dict[str, Any]:
        """Return everything except the lock; a copy has its own."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy."""
        vars(self).update(state)
        self._unlock()

    def _unlock(self) -> None:
        self._lock = threading.Lock()
        _LOCKED.add(self)

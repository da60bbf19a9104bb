"""Build something from a model and its inputs: immediately, or on the inputs of the first call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import nn

from fxlrp.errors import InputError
from fxlrp.inputs import ExamplesNeeded, Inputs

T = TypeVar("T")


class NotCapturedError(InputError, AttributeError):
    """The requested information is available only after the model has been captured."""


class MadeOnInputs(Generic[T]):
    """A value that is built once from a model and its inputs: immediately if possible, else at the first call.

    Several threads may call at the same time: one builds the value, and the others wait for it.
    """

    def __init__(self, make: Callable[[nn.Module, Inputs], T], model: nn.Module, examples: Any) -> None:
        """Build the value on ``examples``, if they are given or not needed.

        Args:
            make: Builds the value from the model and its inputs.
            model: The model.
            examples: The example inputs; None for the inputs of the first call, if the model needs any.
        """
        self._make = make
        self._lock = threading.Lock()
        self._made: T | None = None
        self._reason = ""
        try:
            self._made = make(model, Inputs.of(model, examples))
        except ExamplesNeeded as needed:
            if examples is not None:
                raise
            self._reason = needed.reason

    def on_call(self, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> T:
        """Return the value, which the first call builds on its inputs."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make(model, Inputs.of_call(model, args, kwargs))
        return self._made

    @property
    def is_made(self) -> bool:
        """Whether the value has been built."""
        return self._made is not None

    def require(self, what: str) -> T:
        """Return the value.

        Args:
            what: What the value is needed for, in words.

        Raises:
            NotCapturedError: The value has not been built.
        """
        if self._made is None:
            raise NotCapturedError(
                f"{what} is not known yet: the model is captured at the first call, or immediately if example_inputs "
                f"are given ({self._reason})"
            )
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        """Return everything except the lock; a copy has its own."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy."""
        vars(self).update(state)
        self._lock = threading.Lock()

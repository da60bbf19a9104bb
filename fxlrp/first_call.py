"""What is made of a model on example inputs: at once, or of the first call's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import nn

from fxlrp.errors import InputError
from fxlrp.inputs import ExamplesNeeded, Inputs

T = TypeVar("T")


class NotCapturedError(InputError, AttributeError):
    """What was asked for is known only once the model is captured."""


class MadeOnInputs(Generic[T]):
    """Something that is made of a model on inputs once: at once if it can be, else at the first call.

    Several threads may call at the same time: one makes it, the others wait for it.
    """

    def __init__(self, make: Callable[[nn.Module, Inputs], T], model: nn.Module, examples: Any) -> None:
        """Make it on ``examples``, if they are given or not needed.

        Args:
            make: Makes it of the model on its inputs.
            model: The model.
            examples: The example inputs; None for those of the first call, if the model needs any.
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
        """What was made; made on the inputs of this call if it is the first."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make(model, Inputs.of_call(model, args, kwargs))
        return self._made

    @property
    def is_made(self) -> bool:
        """Whether it is made."""
        return self._made is not None

    def require(self, what: str) -> T:
        """What was made.

        Args:
            what: What it is needed for, in words.

        Raises:
            NotCapturedError: It is not made yet.
        """
        if self._made is None:
            raise NotCapturedError(
                f"{what} is not known yet: the model is captured at the first call, or at once if example_inputs are "
                f"given ({self._reason})"
            )
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, of which a copy has its own."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy."""
        vars(self).update(state)
        self._lock = threading.Lock()

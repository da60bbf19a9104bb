"""Capture a model with the first front end that can follow it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fxlrp.capture import FrontEnd
from fxlrp.errors import (
    CaptureError,
    FxlrpError,
    GraphError,
    RuleError,
    SymbolicTraceError,
    UnsupportedOpError,
)
from fxlrp.inputs import ExamplesNeeded, Inputs

T = TypeVar("T")


def first_that_follows(front_ends: Sequence[FrontEnd], attempt: Callable[[FrontEnd], T], inputs: Inputs) -> T:
    """Return the result of ``attempt`` for the first front end that can follow the model.

    Raises:
        ExamplesNeeded: The front end is ``torch.export``, and there are no example inputs.
        FxlrpError: No front end can; the message has the reasons of both.
    """
    if front_ends == ("export",):
        _need_examples(inputs, "capture='export' was chosen")
        return attempt("export")
    try:
        return attempt("symbolic")
    except (CaptureError, UnsupportedOpError, GraphError) as error:
        if "export" not in front_ends or not _could_be_opened(error):
            raise
        first = error
    _need_examples(inputs, str(first))
    try:
        return attempt("export")
    except RuleError:
        raise
    except UnsupportedOpError as error:
        both = type(error)(f"{error}\nThe model was captured with torch.export, because {first}")
        both.opaque = error.opaque
        raise both from error
    except CaptureError as error:
        if isinstance(first, GraphError):
            raise first from error
        raise CaptureError(f"{first}\nThe other front end fails too: {error}") from error


def _could_be_opened(error: FxlrpError) -> bool:
    """Whether ``torch.export``, which traces into functions and modules, may succeed."""
    return isinstance(error, SymbolicTraceError | GraphError) or (
        isinstance(error, UnsupportedOpError) and error.opaque
    )


def _need_examples(inputs: Inputs, reason: str) -> None:
    if not inputs.examples:
        raise ExamplesNeeded(reason)

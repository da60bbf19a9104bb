"""The errors that fxlrp raises: those that the user can fix, one for bugs in fxlrp, and its warning."""

import inspect
import warnings


class FxlrpError(Exception):
    """Base class of every error that fxlrp raises on purpose."""


class CaptureError(FxlrpError, RuntimeError):
    """The forward graph of the model cannot be captured faithfully; the message says where, and how to fix it."""


class SymbolicTraceError(CaptureError):
    """Symbolic tracing cannot follow the model; ``torch.export`` may be able to."""


class UnsupportedOpError(FxlrpError, NotImplementedError):
    """Relevance would flow through operations without a rule; the message lists all of them."""

    opaque = False
    """Whether some of them are modules or Python functions, which ``torch.export`` can trace into."""


class RuleError(FxlrpError, ValueError):
    """A rule, preset or selector does not exist, does not fit, or matches nothing."""


class InputError(FxlrpError, ValueError):
    """A model, input, target or seed is invalid."""


class LostInputError(InputError, UnsupportedOpError):
    """An input reaches the output only through operations that cannot carry relevance, and is not declared constant."""


class ExportError(FxlrpError, RuntimeError):
    """The explanation cannot be exported as requested; the message says why, and how to fix it."""


class GraphError(InputError):
    """The captured graph does not run on the example inputs: the inputs do not fit, or tracing went wrong."""


class RecipeError(FxlrpError, ValueError):
    """A recipe cannot be written or read, or does not fit the model."""


class InternalError(FxlrpError, AssertionError):
    """An invariant of fxlrp is broken. Please report it."""


class FxlrpWarning(UserWarning):
    """A valid explanation that says less than it seems to; the message says where, and what to do."""


def warn(message: str) -> None:
    """Give a :class:`FxlrpWarning` at the line that called fxlrp, which a user can change."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("fxlrp", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, FxlrpWarning, stacklevel=level)

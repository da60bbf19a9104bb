"""The errors that fxlrp raises: those that the user can mend, and one that is ours."""


class FxlrpError(Exception):
    """Base class of every error that fxlrp raises on purpose."""


class CaptureError(FxlrpError, RuntimeError):
    """The model's forward graph cannot be captured faithfully; the message says where and how to mend it."""


class SymbolicTraceError(CaptureError):
    """Symbolic tracing cannot follow the model; ``torch.export`` may."""


class UnsupportedOpError(FxlrpError, NotImplementedError):
    """Relevance would flow through operations that have no rule; the message lists all of them."""

    opaque = False
    """Whether some of them are modules or Python functions, into which ``torch.export`` can look."""


class RuleError(FxlrpError, ValueError):
    """A rule, preset or selector that does not exist, does not fit, or matches nothing."""


class InputError(FxlrpError, ValueError):
    """A model, input, target or seed that an explanation cannot be computed from."""


class ExportError(FxlrpError, RuntimeError):
    """The explanation cannot be written as what was asked for; the message says why and how to mend it."""


class GraphError(InputError):
    """The captured graph does not run on the example inputs: they do not fit, or tracing went wrong."""


class RecipeError(FxlrpError, ValueError):
    """A recipe that cannot be written or read, or that is not for this model."""


class InternalError(FxlrpError, AssertionError):
    """A broken invariant inside fxlrp: please report it."""

"""Front ends: from a model to its forward graph."""

from fxlrp.capture.symbolic import capture

__all__ = ["capture"]

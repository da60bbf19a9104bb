"""Evaluation of explanations by pixel flipping: whether the model uses the relevant parts of an input."""

from fxlrp.evaluate.curves import Curves, Flipping, merged
from fxlrp.evaluate.flipping import pixel_flipping
from fxlrp.evaluate.replacements import blur

__all__ = ["Curves", "Flipping", "blur", "merged", "pixel_flipping"]

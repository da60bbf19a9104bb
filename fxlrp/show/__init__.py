"""Pictures of relevance: red is positive, blue is negative, white is zero, on a scale that is printed.

Pictures need matplotlib and pillow: ``pip install 'fxlrp[show]'``. Tokens and tables need nothing.
"""

from fxlrp.show.grids import grid
from fxlrp.show.heatmaps import Heatmap, heatmap, overlay
from fxlrp.show.page import Page
from fxlrp.show.picture import Picture
from fxlrp.show.rows import table
from fxlrp.show.signals import signal
from fxlrp.show.texts import tokens

__all__ = ["Heatmap", "Page", "Picture", "grid", "heatmap", "overlay", "signal", "table", "tokens"]

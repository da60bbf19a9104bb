"""Datasets: relevance of every sample in a chunked store, once for each sample and resumable."""

from fxlrp.data.collect import collect
from fxlrp.data.images import Images
from fxlrp.data.ray_engine import Ray
from fxlrp.data.run import explain
from fxlrp.data.store import Results, read

__all__ = ["Images", "Ray", "Results", "collect", "explain", "read"]

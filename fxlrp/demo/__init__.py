"""A demonstration on real images that needs no download: `python -m fxlrp.demo`."""

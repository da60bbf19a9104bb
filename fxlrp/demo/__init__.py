"""A demo on real images that needs no download: `python -m fxlrp.demo`."""

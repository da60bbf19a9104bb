"""Sphinx configuration. ``make docs`` builds the pages into build/docs."""

from fxlrp.version import __version__

project = "fxlrp"
author = "fxlrp developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
autodoc_mock_imports = ["captum", "inseq"]
myst_heading_anchors = 3
html_theme = "furo"
autodoc_member_order = "bysource"
autodoc_typehints = "description"

"""Sphinx configuration: ``sphinx-build docs docs/_build``, with docs/requirements.txt installed."""

project = "fxlrp"
author = "fxlrp developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"

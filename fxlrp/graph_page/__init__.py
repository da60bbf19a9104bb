"""The annotated graph as a page that opens in a browser: modules that open and close, rules, relevance."""

from fxlrp.graph_page.build import annotated_graph
from fxlrp.graph_page.page import GraphPage

__all__ = ["GraphPage", "annotated_graph"]

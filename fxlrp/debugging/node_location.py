"""Where a node is: its module, and the user's source line."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import fx

from fxlrp.printing.table import operation_of
from fxlrp.program import annotation
from fxlrp.provenance import module_path, source_line
from fxlrp.vocabulary.lookup import Vocabulary


@dataclass(frozen=True)
class NodeLocation:
    """A forward node as a user knows it.

    Args:
        node: Its name.
        operation: Its canonical operation; "input" for one of the model's.
        module: The path of its module.
        source: The user's source line, as ``file:line: code``.
        rule: Its rule; empty if it has none.
    """

    node: str
    operation: str
    module: str
    source: str
    rule: str

    @staticmethod
    def of(node: fx.Node, vocabulary: Vocabulary) -> NodeLocation:
        """The location of a node of the annotated graph."""
        annotated = annotation(node)
        rule = str(annotated.rule) if annotated else ""
        return NodeLocation(node.name, operation_of(node, vocabulary), module_path(node), source_line(node), rule)

    def __str__(self) -> str:
        """All of it in words."""
        parts = (("node", self.node), ("operation", self.operation), ("module", self.module), ("rule", self.rule))
        named = ", ".join(f"{name} {text!r}" if name == "node" else f"{name} {text}" for name, text in parts if text)
        return f"{named}, at {self.source}" if self.source else named


def renamed_place(location: NodeLocation) -> NodeLocation:
    """``location``, asked for under its name of version 0.1."""
    warnings.warn("the attribute place is now location", DeprecationWarning, stacklevel=3)
    return location

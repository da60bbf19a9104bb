"""Where a node is: its module and the user's source line."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxlrp.printing.rows import operation_of
from fxlrp.program import annotation
from fxlrp.provenance import module_path, source_line
from fxlrp.vocabulary.lookup import Vocabulary


@dataclass(frozen=True)
class NodeLocation:
    """The location of a forward node in the user's model.

    Args:
        node: The name of the node.
        operation: Its canonical operation, or "input" for an input of the model.
        module: The path of its module; empty for the model itself.
        source: The user's source line, as ``file:line: code``; empty if unknown.
        rule: Its rule; empty if it has none.
    """

    node: str
    operation: str
    module: str
    source: str
    rule: str

    @staticmethod
    def of(node: fx.Node, vocabulary: Vocabulary) -> NodeLocation:
        """Return the location of a node of the annotated graph.

        Args:
            node: The node.
            vocabulary: The canonical operations.
        """
        annotated = annotation(node)
        rule = str(annotated.rule) if annotated else ""
        # The line that created an input is in the code that compiled the model.
        source = "" if node.op == "placeholder" else source_line(node)
        return NodeLocation(node.name, operation_of(node, vocabulary), module_path(node), source, rule)

    def __str__(self) -> str:
        """Return the location in words."""
        parts = (("node", self.node), ("operation", self.operation), ("module", self.module), ("rule", self.rule))
        named = ", ".join(f"{name} {text!r}" if name == "node" else f"{name} {text}" for name, text in parts if text)
        return f"{named}, at {self.source}" if self.source else named

"""The balance of an explanation: the nodes at which relevance is created or absorbed."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

from fxlrp.arguments import tolerance_of
from fxlrp.debugging.relevances import Relevances
from fxlrp.debugging.renamed import renamed
from fxlrp.printing.html import Table, html_table, in_cells

HEADERS = ("node", "operation", "module", "rule", "received", "passed on", "created")


@dataclass(frozen=True)
class NodeBalance:
    """The relevance that a node received and passed on, summed over all elements and samples.

    Relevance is in units of the explained output.

    Args:
        node: The name of the node.
        operation: Its canonical operation.
        module: The path of its module.
        rule: Its rule.
        received: The relevance of its value.
        passed_on: The relevance that its operands received from it.
        zeros: The part of the received relevance at elements of value zero, which it cannot pass on in proportion.
    """

    node: str
    operation: str
    module: str
    rule: str
    received: float
    passed_on: float
    zeros: float = 0.0

    @property
    def handed_on(self) -> float:
        """:attr:`passed_on`, under its name of version 0.1."""
        return renamed("handed_on", "passed_on", self.passed_on)

    @property
    def created(self) -> float:
        """``passed_on - received``; negative where the node absorbed relevance."""
        return self.passed_on - self.received


@dataclass(frozen=True)
class Balance:
    """The balance of an explanation. :meth:`fxlrp.Explainer.balance` returns it.

    Args:
        explained: The initial relevance, summed over all elements and samples. With a target it is the sum of the
            explained outputs.
        at_inputs: The relevance of all inputs, or of the value that ``fxlrp.compile(..., at=...)`` names.
        nodes: The nodes that relevance passes through, from the output back.
    """

    explained: float
    at_inputs: float
    nodes: tuple[NodeBalance, ...]

    @staticmethod
    def of(relevances: Relevances) -> Balance:
        """Return the balance of an explanation that was run node by node."""
        nodes = tuple(
            NodeBalance(
                each.node,
                each.location.operation,
                each.location.module,
                each.location.rule,
                each.received.sum,
                each.passed_on,
                each.zeros or 0.0,
            )
            for each in relevances.nodes
            if each.passed_on is not None
        )
        return Balance(relevances.explained, relevances.at_inputs, nodes)

    def leaks(self, tolerance: float = 1e-6) -> tuple[NodeBalance, ...]:
        """Return the nodes that created or absorbed relevance, largest amount first.

        Args:
            tolerance: The smallest amount that counts, as a fraction of ``abs(explained)``.

        Returns:
            The nodes with ``abs(created) > tolerance * abs(explained)``, or with a NaN.
        """
        least = tolerance_of(tolerance) * abs(self.explained)
        found = [each for each in self.nodes if not abs(each.created) <= least]
        return tuple(sorted(found, key=lambda each: -abs(each.created)))

    def by_operation(self) -> dict[str, float]:
        """Return the relevance that each kind of operation created.

        Returns:
            The sum of ``created`` over its nodes, by the name of the operation, largest amount first.
        """
        sums: dict[str, float] = {}
        for each in self.nodes:
            sums[each.operation] = sums.get(each.operation, 0.0) + each.created
        return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))

    def table(self, tolerance: float = 1e-6) -> Table:
        """Return the leaks and the sums as text.

        Args:
            tolerance: As for :meth:`leaks`.

        Returns:
            A table with a row for each leak, and below it the number of leaks and the sums; a string that notebooks
            show as HTML.
        """
        leaks = self.leaks(tolerance)
        rows = [
            (each.node, each.operation, each.module, each.rule, each.received, each.passed_on, each.created)
            for each in leaks
        ]
        leaked = tabulate(rows, headers=HEADERS, floatfmt=".6g", disable_numparse=False) if rows else "no node leaks"
        notes = (
            f"{len(leaks)} of {len(self.nodes)} nodes create or absorb more than {tolerance:g} of the "
            f"explained output\nexplained: {self.explained:.8g}, at the inputs: {self.at_inputs:.8g}"
        )
        return Table(f"{leaked}\n\n{notes}", html_table(HEADERS, in_cells(rows, ".6g"), notes, right=HEADERS[4:]))

    def _repr_html_(self) -> str:
        return self.table().html

    def __str__(self) -> str:
        """:meth:`table`."""
        return self.table()

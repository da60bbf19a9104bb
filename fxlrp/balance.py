"""The balance of an explanation: at which nodes relevance is created or absorbed."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

from fxlrp.debugging.relevances import Relevances


@dataclass(frozen=True)
class NodeBalance:
    """What a node received and handed on, summed over everything.

    Args:
        node: Its name.
        operation: Its canonical operation.
        module: The path of its module.
        rule: Its rule.
        received: The relevance of its value.
        handed_on: The relevance that its operands received from it.
    """

    node: str
    operation: str
    module: str
    rule: str
    received: float
    handed_on: float

    @property
    def created(self) -> float:
        """How much more it handed on than it received; negative where it absorbed relevance."""
        return self.handed_on - self.received


@dataclass(frozen=True)
class Balance:
    """The balance of an explanation.

    Args:
        explained: The initial relevance, summed over everything: the explained outputs' values.
        at_inputs: The relevance of all inputs, or of the value that ``fxlrp.compile(..., at=...)`` names.
        nodes: The nodes that relevance passes, from the output back.
    """

    explained: float
    at_inputs: float
    nodes: tuple[NodeBalance, ...]

    @staticmethod
    def of(relevances: Relevances) -> Balance:
        """The balance of an explanation that was run node by node."""
        nodes = tuple(
            NodeBalance(
                each.node,
                each.location.operation,
                each.location.module,
                each.location.rule,
                each.received.sum,
                each.handed_on,
            )
            for each in relevances.nodes
            if each.handed_on is not None
        )
        return Balance(relevances.explained, relevances.at_inputs, nodes)

    def leaks(self, tolerance: float = 1e-6) -> tuple[NodeBalance, ...]:
        """The nodes that created or absorbed more than ``tolerance`` of the explained output, the largest first."""
        least = tolerance * abs(self.explained)
        found = [each for each in self.nodes if not abs(each.created) <= least]
        return tuple(sorted(found, key=lambda each: -abs(each.created)))

    def by_operation(self) -> dict[str, float]:
        """How much relevance each kind of operation created, all its nodes together; the largest first."""
        sums: dict[str, float] = {}
        for each in self.nodes:
            sums[each.operation] = sums.get(each.operation, 0.0) + each.created
        return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))

    def table(self, tolerance: float = 1e-6) -> str:
        """The leaks as a table, and the sums."""
        leaks = self.leaks(tolerance)
        rows = [
            (each.node, each.operation, each.module, each.rule, each.received, each.handed_on, each.created)
            for each in leaks
        ]
        headers = ("node", "operation", "module", "rule", "received", "handed on", "created")
        leaked = tabulate(rows, headers=headers, floatfmt=".6g", disable_numparse=False) if rows else "no node leaks"
        return (
            f"{leaked}\n\n{len(leaks)} of {len(self.nodes)} nodes create or absorb more than {tolerance:g} of the "
            f"explained output\nexplained: {self.explained:.8g}, at the inputs: {self.at_inputs:.8g}"
        )

    def __str__(self) -> str:
        """:meth:`table`."""
        return self.table()

"""Where the relevance of a logit went, in words."""

from __future__ import annotations

from fxlrp.balance import Balance

__all__ = ["account", "shortened"]


def account(balance: Balance, named: int = 3) -> str:
    """Say how much of the explained output reached the inputs, and which nodes kept the rest.

    Args:
        balance: The balance of an explanation.
        named: The number of nodes that are named, those that kept most.

    Returns:
        Two sentences, and a line for each of these nodes and for the others.
    """
    explained = balance.explained
    kept = sorted(balance.nodes, key=lambda node: abs(node.created), reverse=True)
    parts = [f"  {-node.created / explained:7.2%}  {node.module or node.node}" for node in kept[:named]]
    others = -sum(node.created for node in kept[named:]) / explained
    reached = f"The logit is {explained:.2f}. {balance.at_inputs / explained:.2%} of it reached the pixels."
    rest = f"  {others:7.2%}  {len(kept) - named} other nodes"
    return "\n".join([f"{reached} The rest stayed with the biases of the layers:", *parts, rest])


def shortened(table: str, first: int = 10, last: int = 8) -> str:
    """Leave out the middle of a long table.

    Args:
        table: Lines of text.
        first: The number of lines to keep at the start.
        last: The number of lines to keep at the end.

    Returns:
        The table, with one line in place of those that were left out.
    """
    lines = table.splitlines()
    left_out = len(lines) - first - last
    if left_out <= 1:
        return table
    return "\n".join([*lines[:first], f"... {left_out} more rows ...", *lines[-last:]])

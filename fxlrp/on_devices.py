"""Run a program on inputs that lie on several devices.

``DTensor`` computes a matrix product over a divided dimension as terms of a sum, one on each device. Whatever reads
the terms would add them up again. Here they are added up once, when the first operation reads them that is not a sum
itself.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fxlrp.layouts import completed, is_distributed, moved, takes_local_parts

_SUMS = (operator.add, operator.iadd, torch.add, torch.Tensor.add_)


class _Completing(fx.Interpreter):
    """Runs a program, and adds up the terms of a sum where an operation reads them that is not a sum."""

    def run_node(self, n: fx.Node) -> Any:
        """Run a node on complete values, or a sum on terms."""
        terms = [each for each in n.all_input_nodes if _has_terms(self.env[each])]
        if terms and not (n.target in _SUMS and len(terms) == len(n.args)):
            for each in terms:
                self.env[each] = moved(self.env[each], completed(self.env[each].placements))
        return super().run_node(n)


def _has_terms(value: Any) -> bool:
    return is_distributed(value) and any(each.is_partial() for each in value.placements)


def program_on_devices(values: Sequence[Any], graph_module: fx.GraphModule) -> Callable[..., Any] | None:
    """The program for inputs of which one is a ``DTensor``; None if there is none, or if the program takes local parts.

    All values are ``DTensor`` then, and other tensors, such as masks, are the same on every device. A program that
    takes local parts has tensors that differ, which nothing may mistake for these; it has changes of the layout itself.

    Args:
        values: The inputs.
        graph_module: The program.
    """
    if not any(map(is_distributed, values)) or takes_local_parts(graph_module.graph):
        return None
    from torch.distributed.tensor.experimental import implicit_replication

    def run(*inputs: Any) -> Any:
        interpreter = _Completing(graph_module)
        interpreter.extra_traceback = False
        with implicit_replication():
            return interpreter.run(*inputs, enable_io_processing=False)

    return run

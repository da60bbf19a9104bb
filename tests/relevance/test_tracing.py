"""What a trace may contain."""

from __future__ import annotations

import torch
from torch import fx

from fxlrp.relevance.tracing import reads_unwritten

aten = torch.ops.aten


def test_memory_that_nothing_has_written() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    empty = graph.call_function(aten.empty_like.default, (x,))
    copied = graph.call_function(aten.copy.default, (empty, x))
    graph.output(copied)
    assert not reads_unwritten(graph)
    with graph.inserting_before(graph.output_node()):
        graph.output_node().args = (graph.call_function(aten.add.Tensor, (empty, x)),)
    assert reads_unwritten(graph)

"""What a trace may contain."""

from __future__ import annotations

import torch
from torch import fx

import fxlrp
from fxlrp.relevance.tracing import reads_unwritten
from oracles import One

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


def test_tensors_are_made_on_the_device_of_the_relevance() -> None:
    explain = fxlrp.compile(One(torch.prod).eval(), example_inputs=torch.rand(3, 4))
    devices = [node.kwargs["device"] for node in explain.graph_module.graph.nodes if "device" in node.kwargs]
    assert devices and not any(isinstance(device, torch.device) for device in devices)
    x = torch.rand(3, 4)
    torch.testing.assert_close(explain(x, seed=lambda output: output), torch.prod(x).expand(3, 4) / 12)

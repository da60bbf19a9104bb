"""What a page shows is the annotated graph: every value once, every read an edge, relevance as the formulas say."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxlrp
from fxlrp.errors import InputError
from fxlrp.graph_page import GraphPage
from fxlrp.graph_page.data import Edge, Graph, Group, Kind, Node
from shown_models import Gated, Twice, small_resnet, small_transformer

X = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.3, 0.7, -1.0, 2.0]])


def nodes_of(graph: Graph) -> dict[str, Node]:
    return {node.id: node for node in graph.nodes}


def group_labels(graph: Graph) -> dict[str, str | None]:
    """The label of the group of each node."""
    labels: dict[str | None, str | None] = {group.id: group.label for group in graph.groups} | {None: None}
    return {node.id: labels[node.group] for node in graph.nodes}


def reading_inputs(nodes: Any) -> dict[str, fx.Node]:
    """The inputs and the nodes that are computed from them, found from the graph of torch alone."""
    found: dict[str, fx.Node] = {}
    for node in nodes:
        if node.op == "placeholder" or any(each.name in found for each in node.all_input_nodes):
            found[node.name] = node
    return found


MODELS = {
    "twice": (Twice, X),
    "gated": (Gated, X),
    "resnet": (small_resnet, torch.rand(1, 3, 32, 32)),
    "transformer": (small_transformer, torch.rand(1, 3, 16, 16)),
}


@cache
def explainer(name: str) -> fxlrp.Explainer:
    make, _ = MODELS[name]
    return fxlrp.compile(make().double().eval())


@pytest.mark.parametrize("name", MODELS)
def test_nodes_and_edges_are_those_of_the_graph(name: str) -> None:
    explain = explainer(name)
    graph, expected = explain.graph().graph, reading_inputs(explain.nodes)
    assert Counter(node.id for node in graph.nodes) == Counter([*expected, "output"])
    for node in expected.values():
        sources = {edge.source for edge in graph.edges if edge.target == node.name}
        assert sources == {each.name for each in node.all_input_nodes if each.name in expected}, node.name
    (last,) = (edge.source for edge in graph.edges if edge.target == "output")
    assert last == list(expected)[-1]


def test_groups_are_nested_and_contain_the_nodes_of_their_module() -> None:
    graph = explainer("transformer").graph().graph
    groups = {group.id: group for group in graph.groups}
    seen: set[str] = set()
    for group in graph.groups:
        assert group.parent is None or group.parent in seen
        seen.add(group.id)
    for node in graph.nodes:
        if node.group is not None:
            assert f"{node.path}.".startswith(f"{groups[node.group].path}.")
    attentions = [group for group in graph.groups if group.module == "MultiheadAttention"]
    assert [groups[group.parent or ""].label for group in attentions] == [f"encoder_layer_{i}" for i in range(12)]
    assert {group.label for group in graph.groups if group.is_open} == {"encoder", "layers"}


@pytest.mark.parametrize("front_end", ["symbolic", "export"])
def test_each_call_of_a_module_is_a_group(front_end: str) -> None:
    class Condition(Twice):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[1] > 100:
                return x
            return super().forward(x)

    made = Twice() if front_end == "symbolic" else Condition()
    explain = fxlrp.compile(made.eval(), example_inputs=X)
    assert explain.front_end == front_end
    graph = explain.graph().graph
    assert [group.label for group in graph.groups] == ["block", "block (call 2)"]
    assert {group.path for group in graph.groups} == {"block"}
    members = Counter(label for label in group_labels(graph).values() if label is not None)
    assert members == {"block": 5, "block (call 2)": 5}


def test_functional_calls_of_the_root_are_outside_of_all_groups() -> None:
    graph = fxlrp.compile(Twice().eval()).graph().graph
    outside = [node.label for node in graph.nodes if node.group is None and not node.is_aside]
    assert outside == ["x", "add", "reshape", "tanh", "head", "explained output"]


def test_a_module_with_one_operation_is_a_node_with_its_name() -> None:
    graph = fxlrp.compile(Gated().eval()).graph().graph
    (group,) = graph.groups
    assert (group.label, group.module) == ("body", "Sequential")
    assert [node.label for node in graph.nodes if node.group == group.id] == ["body.0", "body.1", "body.2"]
    assert nodes_of(graph)["gate"].label == "gate"


def test_a_module_that_contains_only_another_is_one_group() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.net(x)
            return y

    model = nn.Sequential(Outer(), nn.Linear(4, 2))
    graph = fxlrp.compile(model.eval()).graph().graph
    assert [(group.label, group.module) for group in graph.groups] == [("0", "Outer")]
    assert [node.label for node in graph.nodes if node.group] == ["net.0", "net.1"]


def test_sizes_are_aside_and_gates_are_not() -> None:
    twice = fxlrp.compile(Twice().eval()).graph().graph
    assert {node.operation for node in twice.nodes if node.is_aside} == {"getattr", "getitem"}
    gated = nodes_of(fxlrp.compile(Gated().eval()).graph().graph)
    assert [gated[name].is_reached for name in ("gate", "sigmoid", "mul")] == [False, False, True]
    assert not any(node.is_aside for node in gated.values())


def test_a_node_states_its_rule_reason_source_shape_and_parameters() -> None:
    explain = fxlrp.compile(Twice().eval(), rules=[("head", fxlrp.rules.Epsilon(0.25))])
    explain(X)
    head = nodes_of(explain.graph().graph)["head"]
    assert (head.kind, head.operation, head.path, head.module) == (Kind.OPERATION, "linear", "head", "Linear")
    assert (head.rule, head.why) == ("Epsilon(epsilon=0.25)", "user pair 0: head")
    assert head.shape == "2x3" and head.parameters == ("head.weight 3x4", "head.bias 3")
    assert "shown_models.py:" in head.source and "return self.head(torch.tanh(x))" in head.source


def test_colors_number_the_rules_and_passing_through_is_grey() -> None:
    graph = fxlrp.compile(Gated().eval()).graph().graph
    colors = {entry.rule: entry.color for entry in graph.rules}
    assert colors["PassThrough()"] == -1
    assert sorted(color for color in colors.values() if color >= 0) == list(range(len(colors) - 1))
    assert {entry.rule: entry.nodes for entry in graph.rules} == Counter(node.rule for node in graph.nodes if node.rule)


def test_without_inputs_there_is_no_relevance() -> None:
    graph = fxlrp.compile(Gated().eval()).graph().graph
    assert graph.explained is None and graph.at_inputs is None
    assert all(edge.relevance is None for edge in graph.edges) and all(node.balance is None for node in graph.nodes)
    carrying = {(edge.source, edge.target) for edge in graph.edges if edge.carries}
    assert ("body_2", "mul") in carrying and ("sigmoid", "mul") not in carrying


@pytest.mark.parametrize("name", MODELS)
def test_relevance_of_edges_is_that_of_the_balance(name: str) -> None:
    explain, x = explainer(name), MODELS[name][1].double()
    graph, balance = explain.graph(None, x, target=1).graph, explain.balance(x, target=1)
    assert graph.explained == balance.explained and graph.at_inputs == balance.at_inputs
    nodes = nodes_of(graph)
    assert nodes.keys() >= {each.node for each in balance.nodes}
    for each in balance.nodes:
        shown = nodes[each.node].balance
        assert shown is not None and (shown.received, shown.passed_on) == (each.received, each.passed_on)
        flows = [edge.relevance for edge in graph.edges if edge.target == each.node and edge.relevance is not None]
        assert sum(flows) == pytest.approx(each.passed_on, rel=1e-12, abs=1e-12)
        arrived = [edge.relevance for edge in graph.edges if edge.source == each.node and edge.relevance is not None]
        assert sum(arrived) == pytest.approx(each.received, rel=1e-9, abs=1e-9)
    at_input = [edge.relevance for edge in graph.edges if edge.source == "x" and edge.relevance is not None]
    assert sum(at_input) == pytest.approx(float(explain(x, target=1).sum()), rel=1e-6, abs=1e-9)


class Sum(nn.Module):
    """Two branches without a bias that add up: by LRP-0 each receives its value."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 3, bias=False)
        self.right = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.left(x)
        return y + self.right(x) + y


def test_relevance_of_edges_is_the_value_of_each_branch() -> None:
    model = Sum().double().eval()
    x = X.double()
    graph = fxlrp.compile(model, rules=[("*", fxlrp.rules.Epsilon(0))]).graph(None, x, target=2).graph
    left, right = (branch(x)[:, 2].sum().item() for branch in (model.left, model.right))
    flows = {(edge.source, edge.target): edge.relevance for edge in graph.edges}
    assert flows == {
        ("x", "left"): pytest.approx(2 * left),
        ("x", "right"): pytest.approx(right),
        ("left", "add"): pytest.approx(left),
        ("right", "add"): pytest.approx(right),
        ("add", "add_1"): pytest.approx(left + right),
        ("left", "add_1"): pytest.approx(left),
        ("add_1", "output"): pytest.approx(2 * left + right),
    }


def test_a_value_that_is_read_twice_has_two_edges() -> None:
    graph = fxlrp.compile(Twice().double().eval()).graph(None, X.double(), target=0).graph
    (doubled,) = (node for node in graph.nodes if node.operation == "add" and node.group is None)
    twice = [edge for edge in graph.edges if edge.target == doubled.id]
    assert [(edge.source, edge.position) for edge in twice] == [("block_add_1", 0), ("block_add_1", 1)]
    whole = doubled.balance
    assert whole is not None
    assert [edge.relevance for edge in twice] == [pytest.approx(whole.received / 2, rel=1e-6)] * 2


def test_a_target_inside_shows_the_relevance_on_the_way_there() -> None:
    explain = fxlrp.compile(Twice().double().eval())
    graph = explain.graph(None, X.double(), target=1, at="head").graph
    assert graph.at_inputs == pytest.approx(graph.explained)
    assert all(edge.relevance is None for edge in graph.edges if edge.source == "x")


def test_a_place_that_passes_relevance_to_another_shows_what_it_passed_on() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False)).double().eval()
    x = X.double()
    graph = fxlrp.compile(model, rules=[("*", fxlrp.rules.Epsilon(0))]).graph(None, x, target=1, at=["0", "1"]).graph
    explained = model(x)[:, 1].sum().item()  # LRP-0 without biases passes on all of it
    last = nodes_of(graph)["_1"].balance
    assert last is not None and last.passed_on == pytest.approx(explained)
    flows = {(edge.source, edge.target): edge.relevance for edge in graph.edges}
    assert flows == {
        ("input_1", "_0"): None,
        ("_0", "_1"): pytest.approx(explained),
        ("_1", "output"): pytest.approx(explained),
    }
    assert graph.at == ("0", "1")


def test_named_inputs() -> None:
    explain = fxlrp.compile(Twice().eval())
    assert explain.graph(x=X, target=1).graph == explain.graph(None, X, target=1).graph


def test_json_ends_no_script_element() -> None:
    text = fxlrp.compile(Twice().eval()).graph().graph.to_json()
    assert not set("<>&") & set(text)
    assert any("</script><!--" in node["source"] for node in json.loads(text)["nodes"])


def test_numbers_that_json_does_not_have_are_strings() -> None:
    edges = tuple(Edge("a", "b", 0, True, value) for value in (math.nan, math.inf, -math.inf, 0.5))
    graph = Graph("Model", (), (), (), edges, explained=math.nan)
    read = json.loads(graph.to_json(), parse_constant=pytest.fail)
    assert [edge["relevance"] for edge in read["edges"]] == ["NaN", "Infinity", "-Infinity", 0.5]
    assert read["explained"] == "NaN"


def test_groups_open_level_by_level_while_the_view_is_readable() -> None:
    class Branch(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(count)))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layers(x)
            return y + x

    def opened(count: int) -> list[str]:
        groups: tuple[Group, ...] = fxlrp.compile(Branch(count).eval()).graph().graph.groups
        return [group.path for group in groups if group.is_open]

    assert opened(3) == ["layers", "layers.0", "layers.1", "layers.2"]
    assert opened(15) == ["layers"]
    assert opened(40) == []


def test_the_page_is_written_and_returned(tmp_path: Path) -> None:
    explain = fxlrp.compile(Gated().eval())
    page = explain.graph(tmp_path / "graph.html")
    assert (tmp_path / "graph.html").read_text(encoding="utf-8") == page.html
    assert repr(page) == "GraphPage(Gated, 8 nodes, 1 groups)"
    explain.graph(str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").exists()


def test_what_the_method_refuses() -> None:
    explain = fxlrp.compile(Gated().eval())
    with pytest.raises(InputError, match=r"the first argument of graph\(\) is the path of the page, not Tensor"):
        explain.graph(X)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="need inputs"):
        explain.graph(target=1)
    with pytest.raises(InputError, match="give one target"):
        explain.graph(None, X, target=fxlrp.targets.each([0, 1]))


def test_a_page_is_no_other_file_than_html(tmp_path: Path) -> None:
    explain = fxlrp.compile(Gated().eval())
    for name in ("graph.png", "graph"):
        with pytest.raises(InputError, match=rf"{name}' does not end in \.html"):
            explain.graph(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_title_is_escaped() -> None:
    graph = replace(fxlrp.compile(Gated().eval()).graph().graph, title="<Model> & {{ data }}")
    page = GraphPage(graph).html
    assert "<h1>&lt;Model&gt; &amp; {{ data }}</h1>" in page


def test_a_module_may_be_named_output() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.output(x)
            return y

    graph = fxlrp.compile(Named().eval()).graph().graph
    assert [(node.id, node.kind) for node in graph.nodes] == [
        ("x", Kind.INPUT),
        ("output", Kind.OPERATION),
        ("output_1", Kind.OUTPUT),
    ]
    assert [(edge.source, edge.target) for edge in graph.edges] == [("x", "output"), ("output", "output_1")]

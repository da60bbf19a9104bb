"""Law 5 of docs/architecture.md: keyed by node and argument position."""

import copy
import functools
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxlrp
import zoo
from fxlrp import rules
from helpers import assert_is_gradient, lrp0
from law_models import assert_unchanged, optimizer_step, residual, snapshot
from oracles import assert_relevance


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + x).flatten(1)


def test_both_contributions_of_x_plus_x_count() -> None:
    x = torch.tensor([[[1.0, -2.0], [3.0, 0.5]]], dtype=torch.float64)
    relevance = lrp0(Doubled().eval())(x, target=2)
    assert torch.equal(relevance, torch.tensor([[[0.0, 0.0], [6.0, 0.0]]], dtype=torch.float64))


def test_one_sided_rule_tells_the_two_arguments_of_x_plus_x_apart() -> None:
    """Only(0) gives all to the first argument, which is x, Only(1) to the second, which is x too."""
    x = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
    for operand in (0, 1):
        explain = fxlrp.compile(Doubled().eval(), rules=[("add", rules.Only(operand))])
        assert torch.equal(explain(x, target=1), torch.tensor([[0.0, -4.0, 0.0]], dtype=torch.float64))


def test_module_called_twice_is_two_nodes() -> None:
    model, _ = zoo.small_net("module_twice")
    nodes = [n for n in lrp0(model).nodes if "conv" in str(n.target) or "conv" in n.name]
    assert len({node.name for node in nodes}) == len(nodes) == 3


def is_named(name: str, node: fx.Node) -> bool:
    return node.name == name


def test_rules_may_differ_between_two_calls_of_one_module() -> None:
    """A predicate chooses one call of the shared convolution, and the other keeps its rule."""
    model, (x,) = zoo.small_net("module_twice")
    calls = [n.name for n in lrp0(model).nodes if "conv" in str(n.target) or "conv" in n.name]
    answers = [fxlrp.compile(model, rules=[(functools.partial(is_named, call), rules.Flat())])(x) for call in calls]
    assert len(answers) == 3
    for i in range(3):
        for j in range(i):
            assert (answers[i] - answers[j]).abs().max() > 1e-3 * answers[i].abs().max()


def nodes_inside(value: Any, depth: int = 0) -> bool:
    if isinstance(value, torch.fx.Node):
        return True
    if isinstance(value, (list, tuple, set, frozenset)):
        return any(nodes_inside(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return nodes_inside([*value.keys(), *value.values()], depth + 1)
    return depth < 5 and hasattr(value, "__dict__") and nodes_inside(vars(value), depth + 1)


def test_annotations_hold_no_node() -> None:
    model, _ = residual()
    annotations = [node.meta["fxlrp"] for node in fxlrp.compile(model).nodes if "fxlrp" in node.meta]
    assert len(annotations) > 8
    assert not nodes_inside([vars(annotation) for annotation in annotations])


def test_deep_copy_of_the_explainer_works() -> None:
    model, x = residual()
    explain = lrp0(model)
    before = snapshot(model)
    twin = copy.deepcopy(explain)
    assert_unchanged(before, snapshot(model))
    assert str(twin) == str(explain) and twin.code == explain.code
    assert_is_gradient(twin(x), model, x)
    # Its annotations are its own and point into its own graph.
    assert {n.name for n in twin.nodes} == {n.name for n in explain.nodes}
    assert not set(twin.nodes) & set(explain.nodes)
    # Training the original is no business of the copy's, and the original notices as ever.
    kept = zoo.gradient_times_input(model, x)[0]
    optimizer_step(model)
    assert_is_gradient(explain(x), model, x)
    assert_relevance(twin(x), kept, 1e-9)

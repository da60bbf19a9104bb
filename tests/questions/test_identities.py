"""What holds between the answers of one explainer: a ResNet, a vision transformer, a BERT and a language model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxlrp
import zoo
from fxlrp.targets import each
from oracles import assert_relevance
from questions import bert, language_model

IDS = torch.tensor([[1, 4, 2, 7, 3], [5, 5, 0, 9, 10]])
KEEP = torch.tensor([[True, True, True, False, False], [True] * 5])


@dataclass(frozen=True)
class Net:
    """A model with its inputs, rules, targets, and values that nothing bypasses, with the channels of the last one."""

    make: Callable[[], tuple[nn.Module, dict[str, Any]]]
    rules: str
    targets: tuple[Any, ...]
    places: tuple[str, ...]
    groups: tuple[Any, ...]


def image_model(name: str) -> Callable[[], tuple[nn.Module, dict[str, Any]]]:
    def make() -> tuple[nn.Module, dict[str, Any]]:
        model, x = zoo.calibrated(name)
        return model, {"x": x}

    return make


VIT = "encoder.layers.encoder_layer_"
NETS = {
    "resnet18": Net(
        image_model("resnet18"), "epsilon", (1, 7, None), ("layer3", "layer2.0", "layer1"), tuple(range(64))
    ),
    "vit_b_16": Net(
        image_model("vit_b_16"),
        "attnlrp",
        (1, 7),
        (f"{VIT}7", f"{VIT}3", f"{VIT}10"),
        tuple(list(range(first, first + 96)) for first in range(0, 768, 96)),
    ),
    "BERT": Net(
        lambda: (bert(), {"ids": IDS, "visible": KEEP}),
        "attnlrp",
        (0, 2, None),
        ("norm", "layers.1", "layers.0"),
        tuple(range(12)),
    ),
    "language model": Net(
        lambda: (language_model(), {"ids": IDS}),
        "attnlrp",
        ((-1, 3), (2, 5)),
        ("norm", "embed", "blocks.0"),
        tuple(range(8)),
    ),
}
nets = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "vit_b_16" else ()) for name in NETS]
)


def compiled(name: str) -> tuple[fxlrp.Explainer, dict[str, Any], Net]:
    net = NETS[name]
    model, inputs = net.make()
    return fxlrp.compile(model, net.rules, example_inputs=inputs), inputs, net


def paths_of(node: fx.Node) -> list[str]:
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


@nets
def test_channels_add_up_to_the_whole(name: str) -> None:
    explain, inputs, net = compiled(name)
    place, target = net.places[-1], net.targets[0]
    found = explain(**inputs, target=target, only=[{place: group} for group in net.groups])
    assert_relevance(found.sum(0), explain(**inputs, target=target), 1e-10)


@nets
def test_what_a_channel_passes_is_its_relevance_less_what_its_way_absorbs(name: str) -> None:
    explain, inputs, net = compiled(name)
    place, target, group = net.places[-1], net.targets[0], net.groups[1]
    of_value = explain(**inputs, target=target, at=place)
    channels = 1 if name == "resnet18" else -1
    of_group = float(of_value.index_select(channels, torch.as_tensor(group).reshape(-1)).sum())
    balance = explain.balance(**inputs, target=target, only={place: group})
    value = [node for node in explain.nodes if f"model.{place}" in paths_of(node)][-1]
    below, pending = {value.name}, [value]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source.name not in below:
                below.add(source.name)
                pending.append(source)
    absorbed = -sum(one.created for one in balance.nodes if one.node in below)
    total = float(explain(**inputs, target=target, only={place: group}).sum())
    assert total == pytest.approx(of_group - absorbed, rel=1e-9, abs=1e-10)


@nets
def test_several_targets_and_places_are_those_one_at_a_time(name: str) -> None:
    explain, inputs, net = compiled(name)
    for target, relevance in zip(net.targets, explain(**inputs, target=each(net.targets)), strict=True):
        assert_relevance(relevance, explain(**inputs, target=target), 1e-10)
    together = explain(**inputs, target=net.targets[0], at=list(net.places))
    for place in net.places:
        assert_relevance(together[place], explain(**inputs, target=net.targets[0], at=place), 1e-10)


@nets
def test_coefficients_times_values_are_relevance(name: str) -> None:
    explain, inputs, net = compiled(name)
    asked: dict[str, Any] = {"target": net.targets[0], "at": list(net.places)}
    relevances = explain(**inputs, **asked)
    coefficients = explain(**inputs, **asked, coefficients=True)
    reading = explain.read(**inputs, **asked)
    for place in net.places:
        assert_relevance(coefficients[place] * reading[place].value, relevances[place], 1e-10)

"""find_first_layers: which layers read an input."""

import pytest

import zoo
from fxlrp.passes.find_first_layers import find_first_layers
from pass_programs import before, program_after


@pytest.mark.parametrize(("name", "count"), [("resnet18", 1), ("googlenet", 1), ("concatenation", 2)])
def test_find_first_layers_counts(name: str, count: int) -> None:
    model = zoo.small_net(name)[0] if name in zoo.SMALL_NETS else zoo.build(name)
    program = program_after(before(find_first_layers), model)
    assert find_first_layers(program) == len(program.facts.first_layer) == count
    stems = {"resnet18": {"conv1"}, "googlenet": {"conv1_conv"}, "concatenation": {"wide", "narrow"}}
    assert {node.name for node in program.facts.first_layer} == stems[name]


def test_find_first_layers_behind_googlenets_own_preprocessing() -> None:
    """With weights googlenet rescales its input channel by channel and joins the channels: neutral for relevance."""
    model = zoo.torchvision.models.googlenet(init_weights=False, aux_logits=False, transform_input=True)
    program = program_after(before(find_first_layers), model)
    assert find_first_layers(program) == 1
    assert {node.name for node in program.facts.first_layer} == {"conv1_conv"}

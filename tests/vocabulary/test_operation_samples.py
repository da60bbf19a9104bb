"""Every operation has samples, they can be called, and they show what they are meant to show."""

from __future__ import annotations

import pytest
import torch

from operation_samples import LAYOUTS, call, mixed, non_negative, samples, settings, tensors_of
from operation_settings import SAMPLED, SETTINGS
from places import Place

OPERATIONS = SAMPLED


def test_every_operation_has_settings() -> None:
    assert SETTINGS.keys() == OPERATIONS.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_sample_can_be_called(name: str) -> None:
    operation = OPERATIONS[name]
    found = list(samples(operation))
    assert len(found) >= 2
    assert len({sample.name for sample in found}) == len(found)
    for sample in found:
        assert sample.arguments.keys() == operation.parameters.keys()
        call(operation, sample.arguments)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operand_is_given_values(name: str) -> None:
    """Numbers and constants may stand for an operand in some settings, but not in all."""
    operation = OPERATIONS[name]
    for parameter in operation.operands if name != "embedding" else ("weight",):
        values = [sample.arguments[parameter] for sample in samples(operation)]
        assert any(
            tensor.is_floating_point() or tensor.is_complex() for value in values for tensor in tensors_of(value)
        ) or (name in ("and_", "or_", "xor", "invert"))


def test_values_are_of_both_signs_with_zeros() -> None:
    for shape in ((3,), (4, 1), (4, 6), (2, 2, 3)):
        values = mixed(Place(shape))
        assert bool((values > 0).any() and (values < 0).any() and (values == 0).any())
        assert bool((non_negative(Place(shape)) >= 0).all() and (non_negative(Place(shape)) == 0).any())


def test_layouts_keep_the_values() -> None:
    image = mixed(Place((2, 4, 6, 6)))
    for lay_out in LAYOUTS.values():
        assert torch.equal(lay_out(image), image)
        assert not lay_out(image).is_contiguous()


def test_the_settings_of_an_operation_have_names_of_their_own() -> None:
    for operation in OPERATIONS.values():
        assert len({setting.name for setting in settings(operation)}) == len(SETTINGS[operation.name])

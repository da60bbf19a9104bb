"""Flat on a dense first layer says nothing, and says so."""

import warnings

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp.errors import FxlrpWarning


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers).eval()


def test_all_features_receive_the_same_and_a_warning_names_the_layer() -> None:
    model = network(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.warns(FxlrpWarning, match=r"Flat\(\).*'0'.*choose another rule") as found:
        explain = fxlrp.compile(model, "epsilon_plus_flat")
    assert len(found) == 1
    relevance = explain(torch.rand(3, 5), target=1)
    assert torch.allclose(relevance, relevance[:, :1].expand(3, 5))


@pytest.mark.parametrize(
    ("layer", "x"),
    [(nn.Conv1d(2, 3, 2), torch.rand(1, 2, 4)), (nn.Linear(4, 3), torch.rand(1, 2, 4))],
    ids=["convolution", "rows"],
)
def test_no_warning_where_positions_differ(layer: nn.Module, x: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        fxlrp.compile(network(layer, nn.Flatten(1)), [(fxlrp.rules.FirstLayer(), fxlrp.rules.Flat())], example_inputs=x)


def test_no_warning_for_other_rules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FxlrpWarning)
        fxlrp.compile(network(nn.Linear(5, 4)), "epsilon_plus")

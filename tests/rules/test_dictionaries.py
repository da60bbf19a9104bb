"""Rules as plain dictionaries."""

import json
from typing import Any

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp import presets, rules
from fxlrp.errors import RuleError
from fxlrp.rules.preset import Preset
from fxlrp.rules.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    pairs: list[Any] = [
        (nn.Conv2d, rules.Gamma(0.1)),
        ("a.*", rules.ZPlus(bias=False)),
        (rules.FirstLayer(), rules.Flat()),
    ]
    preset = PRESETS[name](**({"low": (-2.0, -1.0, -1.5), "high": 3.0} if name == "epsilon_gamma_box" else {}))
    for each in (preset, preset.override(pairs)):
        assert rules.from_dict(json.loads(json.dumps(rules.to_dict(each)))) == each


def test_a_bound_of_several_dimensions() -> None:
    box = presets.epsilon_gamma_box(low=-torch.ones(1, 3, 1, 1), high=torch.ones(1, 3, 1, 1))
    assert rules.from_dict(json.loads(json.dumps(rules.to_dict(box)))) == box


def test_toml() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    written = """
        preset = "epsilon_gamma_box"
        parameters = { low = -3.0, high = [1.0, 2.0, 3.0], gamma = 0.5 }
        [[rules]]
        select = "layer4.*"
        rule = "Gamma"
        gamma = 0.1
        [[rules]]
        select = { class = "Linear" }
        rule = "Epsilon"
        epsilon = 1e-3
        [[rules]]
        select = { first_layer = true }
        rule = "Flat"
    """
    expected = presets.epsilon_gamma_box(low=-3.0, high=(1.0, 2.0, 3.0), gamma=0.5).override(
        [("layer4.*", rules.Gamma(0.1)), (nn.Linear, rules.Epsilon(1e-3)), (rules.FirstLayer(), rules.Flat())]
    )
    assert rules.from_dict(tomllib.loads(written)) == expected


def test_compile_takes_a_dictionary() -> None:
    model = nn.Sequential(nn.Linear(3, 2)).eval()
    explain = fxlrp.compile(model, {"preset": "epsilon", "rules": [{"select": "0", "rule": "ZPlus"}]})
    assert [node.meta["fxlrp"].rule for node in explain.nodes if "fxlrp" in node.meta] == [rules.ZPlus()]


PAIR = {"select": "a", "rule": "Gamma"}
WRONG: list[tuple[Any, str]] = [
    ({"presett": "epsilon"}, "unknown key 'presett'"),
    ({"preset": "none"}, "preset: there is no preset 'none'"),
    ({"preset": "epsilon", "parameters": {"gamma": 1}}, "gamma"),
    ({"preset": "epsilon", "parameters": 1}, "parameters must be a mapping"),
    ({"rules": 3}, "rules: must be a list"),
    ({"rules": [PAIR, 3]}, r"rules\[1\]: must be a dictionary"),
    ({"rules": [{"rule": "Gamma"}]}, r"rules\[0\]: the key 'select' is missing"),
    ({"rules": [{"select": "a"}]}, r"rules\[0\]: the key 'rule' is missing"),
    ({"rules": [{**PAIR, "gama": 1}]}, r"rules\[0\]: the rule Gamma has no parameter 'gama'"),
    ({"rules": [{**PAIR, "gamma": -1}]}, r"rules\[0\]: Gamma: gamma must be"),
    ({"rules": [{**PAIR, "rule": "Gam"}]}, r"rules\[0\]: .*no rule 'Gam'"),
    ({"rules": [{**PAIR, "rule": "Custom"}]}, "no rule 'Custom'"),
    ({"rules": [{**PAIR, "select": {"class": "Conv9d"}}]}, "select: class cannot be 'Conv9d'"),
    ({"rules": [{**PAIR, "select": 4}]}, "select: must be a string"),
    ({"name": "own", "preset": "epsilon"}, "unknown key 'preset'"),
]


@pytest.mark.parametrize(("mapping", "message"), WRONG)
def test_errors_name_the_key(mapping: Any, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        rules.from_dict(mapping)


@pytest.mark.parametrize("pair", [(lambda node: True, rules.Flat()), ("a", rules.Custom(torch.relu))])
def test_code_is_refused(pair: Any) -> None:
    with pytest.raises(RuleError, match="which a dictionary cannot contain"):
        rules.to_dict(Preset("own").override([pair]))

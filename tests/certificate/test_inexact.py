"""Certificates of explanations that are not exact name the nodes, with what they absorb; others are errors."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from torch import Tensor, nn

import fxlrp
import zoo
from certified import net
from fxlrp import presets, rules
from fxlrp.__main__ import main
from fxlrp.errors import InputError
from fxlrp.relevance import activation, normalization
from fxlrp.relevance.step import Implementation
from oracles import random, randomize

EXACT = presets.cplrp(0.0)


def mlp() -> nn.Sequential:
    return randomize(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))).double().eval()


def test_a_stabilizer_absorbs_what_its_formula_says() -> None:
    model, x, epsilon = mlp(), random(2, 3), 0.1
    certificate = fxlrp.compile(model, presets.cplrp(epsilon)).certify(x, target=1)
    assert not certificate.is_exact
    assert certificate.verdict.startswith("not exact: 2 of 3 nodes")
    absorbed = {each.location.node: each.absorbed for each in certificate.inexact}
    assert list(absorbed) == ["_0", "_2"]
    z, bias = model(x)[:, 1].tolist(), float(dict(model.named_parameters())["2.bias"][1])
    # Of the contributions z - b to an output z, the stabilizer takes the share epsilon / (|z| + epsilon).
    assert absorbed["_2"] == pytest.approx([(each - bias) * epsilon / (abs(each) + epsilon) for each in z], rel=1e-12)
    errors = [sample.rebuilt - sample.output for sample in certificate.samples]
    assert errors == pytest.approx([-sum(each) for each in zip(*absorbed.values(), strict=True)], rel=1e-9)
    assert certificate.second_difference < 1e-12


def test_the_taylor_rule_of_softmax_is_not_exact() -> None:
    model, inputs, target, options = net("encoder")
    optimize = fxlrp.Optimizations(fuse_attention=False)
    certificate = fxlrp.compile(model, presets.attnlrp(0.0), optimize=optimize, **options).certify(
        *inputs, target=target
    )
    assert {each.location.operation for each in certificate.inexact} >= {"softmax"}
    assert not certificate.is_affine
    assert "presets.cplrp(0.0)" in certificate.verdict


@pytest.mark.parametrize("rule", [rules.ZPlus(), rules.Gamma(0.25)], ids=str)
def test_a_rule_that_splits_contributions_by_sign_is_named(rule: rules.Rule) -> None:
    certificate = fxlrp.compile(mlp(), EXACT.override([("0", rule)])).certify(random(2, 3), target=1)
    assert [each.location.rule for each in certificate.inexact] == [str(rule)]


def test_a_rule_without_coefficients_is_an_error_that_says_what_to_compile_with() -> None:
    explain = fxlrp.compile(mlp(), EXACT.override([("0", rules.Flat())]))
    with pytest.raises(InputError, match=r"Flat\(.*node '_0'.*presets\.cplrp\(0\.0\)"):
        explain.certify(random(2, 3), target=1)


def test_a_wrong_transposed_map_is_found_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    right = normalization.layer_norm_transposed
    monkeypatch.setattr(normalization, "layer_norm_transposed", lambda u, *rest, **how: right(1.001 * u, *rest, **how))
    model = randomize(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))).double().eval()
    certificate = fxlrp.compile(model, EXACT).certify(random(2, 3), target=1)
    assert not certificate.is_exact and not certificate.is_affine
    assert [each.location.operation for each in certificate.inexact] == ["layer_norm"]
    # The model with what is frozen is affine all the same: the coefficients are not those of it.
    assert certificate.second_difference < 1e-12
    assert certificate.of_random_outputs > 1e-5


def test_a_function_that_is_frozen_wrongly_is_found_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing were held constant inside an activation: it is not affine then."""
    how = activation.RULES[rules.PassThrough]
    assert isinstance(how, Implementation)
    monkeypatch.setitem(activation.RULES, rules.PassThrough, dataclasses.replace(how, frozen=None))
    certificate = fxlrp.compile(mlp(), EXACT).certify(random(2, 3), target=1)
    assert [each.location.operation for each in certificate.inexact] == ["relu"]
    assert certificate.error < 1e-12 and not certificate.is_exact


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"target": fxlrp.targets.each([0, 1])}, "one explanation is certified at a time"),
        ({"tolerance": -1.0}, "tolerance must be a number of at least 0, not -1.0"),
        ({"tolerance": "1e-9"}, "tolerance must be a number of at least 0, not '1e-9'"),
        ({"target": 7}, "target"),
    ],
    ids=["several targets", "negative", "not a number", "no such output"],
)
def test_wrong_arguments_are_errors(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        fxlrp.compile(mlp(), EXACT).certify(random(2, 3), **arguments)


def test_a_tolerance_below_rounding_is_not_met() -> None:
    model, (x,) = zoo.small_net("residual")
    certificate = fxlrp.compile(model, EXACT).certify(x, target=1, tolerance=0.0)
    assert not certificate.is_exact


def test_it_is_printed_as_tables_and_does_not_change() -> None:
    certificate = fxlrp.compile(mlp(), EXACT).certify(random(2, 3), target=1)
    lines = str(certificate).splitlines()
    assert lines[0].split() == ["sample", "output", "inputs", "constants", "rebuilt", "error", "relative"]
    assert any(line.split()[:3] == ["_1", "relu", "PassThrough()"] for line in lines)
    assert any(line.split()[:2] == ["_2", "2.bias"] for line in lines)
    assert lines[-1] == certificate.verdict
    html = certificate._repr_html_()
    assert html.count("<table>") == 3 and certificate.verdict in html
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate.tolerance = 1.0  # type: ignore[misc]


@pytest.mark.slow
def test_the_command_line_prints_a_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "torchvision:squeezenet1_1", "--rules", "cplrp", "--certify"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "torchvision:squeezenet1_1, cplrp, captured by symbolic"
    assert printed[-1].startswith("exact: ")


class Probabilities(nn.Module):
    def __init__(self, logarithm: bool) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.last = nn.LogSoftmax(1) if logarithm else nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        probabilities: Tensor = self.last(self.head(x))
        return probabilities


@pytest.mark.parametrize("logarithm", [True, False])
def test_probabilities_are_an_error_that_says_how_to_explain_the_logits(logarithm: bool) -> None:
    model, x = Probabilities(logarithm).double().eval(), random(2, 3)
    with pytest.raises(InputError, match="output='<module>'"):
        fxlrp.compile(model, EXACT).certify(x, target=1)
    assert fxlrp.compile(model, EXACT, output="head").certify(x, target=1).is_exact


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(self.conv(x), (1, 1, 1, 1), value=float("-inf"))
        scores: Tensor = self.head(nn.functional.max_pool2d(x, 3, 2).mean((2, 3)))
        return scores


def test_infinite_numbers_that_pad_for_max_pooling_contribute_nothing() -> None:
    model, x = randomize(Padded()).double().eval(), random(2, 1, 6, 6)
    certificate = fxlrp.compile(model, EXACT).certify(x, target=1)
    assert certificate.is_exact
    assert [each.names for each in certificate.constants] == [("conv.bias",), ("head.bias",)]

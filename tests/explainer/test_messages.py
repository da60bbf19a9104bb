"""What calls that are almost right are told: what is wrong, and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fxlrp
from fxlrp.errors import CaptureError, ExportError, FxlrpError, InputError, RuleError
from fxlrp.inputs import OF_THE_QUESTION
from fxlrp.passes import Program, compiler_pass

X = torch.rand(2, 1, 5, 5)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)).eval()


@pytest.fixture(scope="module")
def explain() -> fxlrp.Explainer:
    return fxlrp.compile(network())


@compiler_pass(after=["annotate"])
def counts_nothing(program: Program) -> int:
    return None  # type: ignore[return-value]


@compiler_pass(after=["annotat"])
def after_an_unknown_pass(program: Program) -> int:
    return 0


CALLS: dict[str, tuple[Callable[[fxlrp.Explainer], Any], type[FxlrpError], str]] = {
    "target by position": (lambda e: e(X, 3), InputError, r"expected 1 input \(input\), got 2: .* such as target="),
    "misspelled target": (lambda e: e(X, tagret=3), InputError, "unknown input 'tagret'.*similar names: target"),
    "bytes": (lambda e: e((X * 255).byte()), InputError, r"such as by float\(\) / 255 for an image, or list it in"),
    "explainer": (lambda e: fxlrp.compile(e), CaptureError, r"is Explainer\(.*: compile the model that it explains"),
    "folder": (lambda e: e.export("missing/a.pt2", X), ExportError, "the folder 'missing' does not exist"),
    "sizes": (
        lambda e: fxlrp.compile(network(), dynamic_shapes={"inpt": {0: 1}}),
        InputError,
        "dynamic_shapes names an unknown input 'inpt'; the inputs are: input",
    ),
    "name of a rule": (
        lambda e: fxlrp.compile(network(), [("conv2d", "gamma")]),  # type: ignore[list-item]
        RuleError,
        r"rules\[0\] has 'gamma' in place of a rule such as fxlrp.rules.Gamma\(0.25\)",
    ),
    "function": (
        lambda e: fxlrp.compile(network(), [("conv2d", torch.relu)]),  # type: ignore[list-item]
        RuleError,
        r"in place of a rule such as fxlrp.rules.Custom\(function\)",
    ),
    "pass without a count": (
        lambda e: fxlrp.compile(network(), passes=[counts_nothing]),
        InputError,
        "the pass counts_nothing must return how often it applied, an integer, not None",
    ),
    "unknown pass": (
        lambda e: fxlrp.compile(network(), passes=[after_an_unknown_pass]),
        InputError,
        "names the pass 'annotat', which does not exist; similar names: annotate",
    ),
    "output": (
        lambda e: fxlrp.compile(network(), output="heads"),
        InputError,
        "^output='heads' would select from a single tensor: leave out output=. Inside the model, no node",
    ),
    "parameters of a preset": (
        lambda e: fxlrp.presets.epsilon_gamma_box(),  # type: ignore[call-arg]
        RuleError,
        r"the preset epsilon_gamma_box\(low, high, gamma=0.25, epsilon=1e-06\): missing",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_call_is_told(name: str, explain: fxlrp.Explainer) -> None:
    call, error, message = CALLS[name]
    with pytest.raises(error, match=message):
        call(explain)


def test_the_hint_for_unknown_inputs_knows_every_argument_of_a_call() -> None:
    parameters = inspect.signature(fxlrp.Explainer.forward).parameters.values()
    assert tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY) == OF_THE_QUESTION


def test_references_from_another_file(explain: fxlrp.Explainer, tmp_path: Path) -> None:
    """PyTorch's own message advises to run the code in the file."""
    path = tmp_path / "x.pt"
    path.write_text("hello")
    with pytest.raises(InputError, match="is not a file of reference samples") as caught:
        fxlrp.concepts.References.load(path, explain)
    assert "weights_only" not in str(caught.value)


def test_a_pattern_for_parameters_at_the_end_of_a_name(explain: fxlrp.Explainer) -> None:
    """Nodes that read parameters have similar names, and no relevance of their own."""
    assert set(explain(X, at="*weight")) == set(explain(X, at="*.weight")) == {"0.weight", "3.weight"}


def test_a_rule_without_a_name_or_a_source() -> None:
    """torch.fx looks for the name of a lambda in its source."""
    rule = eval("lambda input, weight, bias=None, *, relevance: torch.ones_like(input)", {"torch": torch})
    explain = fxlrp.compile(network(), [("conv2d", fxlrp.rules.Custom(rule))])
    assert torch.equal(explain(X), torch.ones_like(X)) and "rule(" in explain.code


def test_the_location_of_an_input_is_not_that_of_the_compilation(explain: fxlrp.Explainer) -> None:
    found = explain.debug(X * torch.nan).first_bad
    assert found is not None and found.node == "input_1" and found.source == ""

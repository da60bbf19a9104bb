"""A recipe that anyone may have written: it is loaded, or an error of fxlrp's own says what is wrong with it."""

from __future__ import annotations

import collections
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import rules
from fxlrp.errors import FxlrpError, RecipeError
from hostile import files, nested


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


class Named(nn.Module):
    """Takes a tensor and a constant by name, and returns several outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
        return {"logits": self.layer(x) * scale}


def named() -> nn.Module:
    return Named().eval()


BOX = fxlrp.presets.epsilon_gamma_box(low=(-1.0,) * 4, high=1.0)
PAIRS: list[Any] = [("0", rules.Gamma(0.5)), (nn.Linear, rules.ZPlus()), ("relu", rules.PassThrough())]
OPEN = {"x": {0: torch.export.Dim.AUTO}, "scale": None}
SAVED: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "dense": (dense, dict(rules=BOX.override(PAIRS), example_inputs=torch.rand(2, 4), checkpoint=2)),
    "named": (named, dict(example_inputs={"x": torch.rand(2, 4), "scale": 2.0}, output="logits", capture="symbolic")),
    "open": (
        named,
        dict(example_inputs={"x": torch.rand(2, 4), "scale": 2.0}, output=("logits",), capture="export")
        | dict(dynamic_shapes=OPEN),
    ),
}


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    model, options = SAVED[request.param]
    fxlrp.compile(model(), **options).save(tmp_path / "recipe.json")
    saved: dict[str, Any] = json.loads((tmp_path / "recipe.json").read_text())
    fxlrp.load(tmp_path / "recipe.json", model())
    return saved


CASES = [("dense", 250), ("named", 150), pytest.param("open", 100, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("recipe", "count"), CASES, indirect=["recipe"], ids=["dense", "named", "open"])
def test_every_outcome_is_success_or_an_own_error(
    recipe: dict[str, Any], count: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = SAVED[request.node.callspec.params["recipe"]][0]()
    path, outcomes = tmp_path / "hostile.json", collections.Counter[str]()
    for text in files(recipe, seed=12, count=count):
        path.write_bytes(text)
        try:
            with warnings.catch_warnings(action="ignore"):
                fxlrp.load(path, model)
            outcomes["loaded"] += 1
        except FxlrpError as error:
            assert str(error)
            outcomes[type(error).__name__] += 1
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{text[:2000]!r}")
    assert outcomes["RecipeError"] > count / 2, outcomes
    assert outcomes["loaded"] > 0, "some changes are harmless"
    assert not outcomes["InternalError"], outcomes


def changed(recipe: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(recipe))
    *way, last = place.split("/")
    owner: Any = changed
    for key in way:
        owner = owner[int(key) if isinstance(owner, list) else key]
    owner[int(last) if isinstance(owner, list) else last] = value
    return changed


@pytest.mark.parametrize("recipe", ["dense"], indirect=True)
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("example_inputs/0/shape", [40_000_000, 60_000_000], "example_inputs needs more than 16 GiB"),
        ("example_inputs/0/shape", [2**62, 2**62, 0], "cannot be made"),
        ("example_inputs/0/shape", [-1, 4], r"example_inputs\[0\].shape\[0\] must be a whole number of at least 0"),
        ("example_inputs/0/dtype", "nn", r"example_inputs\[0\].dtype is 'nn', which is not a type of tensors"),
        ("example_inputs/0/dtype", ["float32"], r"example_inputs\[0\].dtype must be a string, not a list"),
        ("rules/pairs/0/rule", {"rule": "Gamma", "gama": 1.0}, "the rule Gamma has no parameter 'gama'"),
        ("rules/pairs/0/rule", {"rule": "Gamma", "cls": 1.0}, "the rule Gamma has no parameter 'cls'"),
        ("rules/pairs/0/rule", {"rule": "Custom", "function": "x"}, "no rule 'Custom'"),
        ("rules/pairs/0/rule", {"rule": "Gamma", "gamma": -1}, "gamma must be a finite number of at least 0"),
        ("rules/pairs/0/rule", {"gamma": 1}, r"rules.pairs\[0\].rule has no entry 'rule'"),
        ("rules/pairs/0/selector", {"predicate": "x"}, "no selector"),
        ("rules/pairs/0/selector", {}, "no selector"),
        ("rules/epsilon", float("nan"), "rules.epsilon must be a finite number, not NaN"),
        ("optimizations", {"go_faster": True}, "no optimization 'go_faster'"),
        ("optimizations/infer_signs", "yes", 'optimizations.infer_signs must be true or false, not "yes"'),
        ("model", {"class": "Sequential"}, "model has no entry 'structure'"),
        ("model/tensors", [], "model.tensors must be a mapping, not a list"),
        ("front_end", "tensorflow", "front_end must be one of 'symbolic', 'export'"),
        ("segments", -2, "segments must be a whole number of at least 0"),
        ("dynamic_shapes", nested(50, "sequence"), "dynamic_shapes must be null or a mapping"),
        ("dynamic_shapes", {"mapping": [["x", nested(50, "sequence")]]}, "too many levels"),
        ("dynamic_shapes", {"mapping": [["x", {"hint": "MAYBE"}]]}, r"dynamic_shapes\[0\] must be one of 'AUTO'"),
        ("output", {"key": "logits"}, "output must be null, an index, a key or a list of these"),
        ("extensions", [1], r"extensions\[0\] must be a string, not 1"),
    ],
)
def test_the_message_names_the_place(
    recipe: dict[str, Any], place: str, value: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / "hostile.json").write_text(json.dumps(changed(recipe, place, value)))
    with pytest.raises(RecipeError, match=message):
        fxlrp.load(tmp_path / "hostile.json", dense())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"format": []}',
    ],
    ids=["empty", "list", "null", "cut", "binary", "brackets", "digits", "format"],
)
def test_what_is_no_recipe(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "hostile.json").write_bytes(text)
    with pytest.raises(RecipeError, match=r"hostile\.json is not a recipe"):
        fxlrp.load(tmp_path / "hostile.json", dense())

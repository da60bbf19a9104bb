"""Explainers saved as recipes and made again."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxlrp
import zoo
from fxlrp import presets, rules
from fxlrp.errors import RecipeError


class Sizes(nn.Module):
    """What `torch.export` captures; takes tokens and a mask by name, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor, mask: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
        x = self.embedding(tokens)
        if x.shape[1] > 1:
            x = x + torch.relu(self.mix(x))
        return {"logits": self.head((x * mask[..., None]).mean(1)) * scale}


TOKENS = {"tokens": torch.tensor([[1, 3, 3, 8], [0, 2, 5, 1]]), "mask": torch.ones(2, 4)}


def sizes() -> nn.Module:
    torch.manual_seed(0)
    return Sizes().eval()


IMAGES: list[dict[str, Any]] = [
    dict(rules="epsilon_plus_flat"),
    dict(rules=presets.epsilon_gamma_box(low=(-3.0, -2.0, -1.5), high=3.0)),
    dict(rules=[("conv1", rules.Flat()), (nn.Conv2d, rules.Gamma(0.5)), ("add", rules.Equal())]),
    dict(rules="epsilon", at="conv2", optimize=False),
    dict(rules="epsilon", checkpoint=3, optimize=fxlrp.Optimizations(carry_quotients=False)),
    dict(rules="epsilon", capture="export", example_inputs=torch.rand(2, 3, 8, 8, dtype=torch.float64)),
]


@pytest.mark.parametrize("options", IMAGES, ids=range(len(IMAGES)))
def test_the_same_explainer_is_made_again(options: dict[str, Any], tmp_path: Path) -> None:
    model, (x,) = zoo.small_net("residual")
    explain = fxlrp.compile(model, **options)
    explain.save(tmp_path / "recipe.json")
    again = fxlrp.load(tmp_path / "recipe.json", zoo.small_net("residual")[0])
    assert again.code == explain.code and again.front_end == explain.front_end
    assert torch.equal(again(x, target=1), explain(x, target=1))
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == (tmp_path / "recipe.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("by_name", [True, False])
def test_inputs_outputs_and_open_sizes_are_kept(by_name: bool, tmp_path: Path) -> None:
    examples: Any = {**TOKENS, "scale": 2.0} if by_name else tuple(TOKENS.values())
    shapes = {name: {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO} for name in TOKENS}
    options: dict[str, Any] = {"dynamic_shapes": {**shapes, "scale": None} if by_name else shapes}
    explain = fxlrp.compile(sizes(), "attnlrp", example_inputs=examples, output="logits", **options)
    explain.save(tmp_path / "recipe.json")
    again = fxlrp.load(tmp_path / "recipe.json", sizes())
    given = {name: value[:, :3] for name, value in TOKENS.items()}
    ours, theirs = again(**given, target=1), explain(**given, target=1)
    assert ours.keys() == theirs.keys() == {"tokens", "mask"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_the_first_call_captured_is_kept(tmp_path: Path) -> None:
    explain = fxlrp.compile(sizes(), output="logits")
    with pytest.raises(fxlrp.errors.InputError, match="first call"):
        explain.save(tmp_path / "recipe.json")
    relevance = explain(**TOKENS)
    explain.save(tmp_path / "recipe.json")
    again = fxlrp.load(tmp_path / "recipe.json", sizes())(**TOKENS)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again.values(), relevance.values(), strict=True))


def saved(path: Path, rules: Any = "epsilon_plus", **options: Any) -> Path:
    fxlrp.compile(zoo.small_net("residual")[0], rules, **options).save(path / "recipe.json")
    return path / "recipe.json"


def weight(model: nn.Module) -> None:
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] += 1e-9  # type: ignore[union-attr, operator, index]


def statistic(model: nn.Module) -> None:
    model.bn1.running_mean.add_(1)  # type: ignore[union-attr, operator]


def shape(model: nn.Module) -> None:
    model.head = nn.Linear(6, 9).double().eval()


def dtype(model: nn.Module) -> None:
    model.float()


def module(model: nn.Module) -> None:
    model.relu = nn.GELU()


def setting(model: nn.Module) -> None:
    model.get_submodule("conv2").stride = (2, 2)  # type: ignore[assignment]


def further(model: nn.Module) -> None:
    model.more = nn.Linear(2, 2).eval()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (weight, r"the values of 'conv2.weight' differ; .*weights=False"),
        (statistic, "the values of 'bn1.running_mean' differ"),
        (shape, r"the shape of 'head.weight' is \[9, 6\], and was \[5, 6\]"),
        (dtype, "the dtype of '.*' is torch.float32, and was torch.float64"),
        (module, "its modules or their settings"),
        (setting, "its modules or their settings"),
        (further, "it also has the parameter or buffer 'more.bias'"),
    ],
)
def test_a_changed_model_is_refused(change: Callable[[nn.Module], None], message: str, tmp_path: Path) -> None:
    path, model = saved(tmp_path), zoo.small_net("residual")[0]
    change(model)
    with pytest.raises(RecipeError, match=message):
        fxlrp.load(path, model)


def test_other_weights_may_be_allowed(tmp_path: Path) -> None:
    path, (model, (x,)) = saved(tmp_path), zoo.small_net("residual")
    weight(model)
    assert torch.equal(fxlrp.load(path, model, weights=False)(x), fxlrp.compile(model, "epsilon_plus")(x))
    setting(model)
    with pytest.raises(RecipeError, match="settings"):
        fxlrp.load(path, model, weights=False)


class Switch(nn.Module):
    """What it computes depends on an attribute that nobody sees."""

    def __init__(self, double: bool) -> None:
        super().__init__()
        self.layer, self.double_it = nn.Linear(3, 3), double
        nn.init.ones_(self.layer.weight)
        nn.init.ones_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(2 * x) if self.double_it else self.layer(x)


def test_a_forward_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    fxlrp.compile(Switch(False).eval()).save(tmp_path / "recipe.json")
    fxlrp.load(tmp_path / "recipe.json", Switch(False).eval())
    with pytest.raises(RecipeError, match=r"forward\(\) or the rules of its operations differ"):
        fxlrp.load(tmp_path / "recipe.json", Switch(True).eval())


def test_another_version_cannot_compare_forwards_and_says_so(tmp_path: Path) -> None:
    path = saved(tmp_path)
    recipe = json.loads(path.read_text())
    path.write_text(json.dumps({**recipe, "versions": {**recipe["versions"], "torch": "2.10.0"}}))
    with pytest.warns(UserWarning, match=r"the recipe was saved with .*torch 2.10.0"):
        fxlrp.load(path, zoo.small_net("residual")[0])
    path.write_text(json.dumps({**recipe, "format": 99}))
    with pytest.raises(RecipeError, match="this version"):
        fxlrp.load(path, zoo.small_net("residual")[0])
    path.write_text("no json")
    with pytest.raises(RecipeError, match="not a recipe"):
        fxlrp.load(path, zoo.small_net("residual")[0])


def test_another_class_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="for a Residual, not for a Switch"):
        fxlrp.load(saved(tmp_path), Switch(True).eval())


def test_recipes_hold_no_code(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"the selector 'chosen' is a function"):

        def chosen(node: torch.fx.Node) -> bool:
            return node.name == "conv1"

        saved(tmp_path, [(chosen, rules.Gamma(0.1))])
    text = saved(tmp_path, [(nn.Conv2d, rules.Gamma(0.1))]).read_text()
    path = tmp_path / "recipe.json"
    path.write_text(text.replace('"torch.nn.modules.conv.Conv2d"', '"os.path"'))
    with pytest.raises(RecipeError, match=r"modules of the class os\.path"):
        fxlrp.load(path, zoo.small_net("residual")[0])
    path.write_text(text.replace('"Gamma"', '"Rule.__subclasses__"'))
    with pytest.raises(RecipeError, match="no rule"):
        fxlrp.load(path, zoo.small_net("residual")[0])


def halved(x: Tensor) -> Tensor:
    return torch.special.i0(x)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return halved(self.layer(x))


@fxlrp.rule_for(halved)
def halved_relevance(x: Tensor, *, out: Tensor, relevance: Tensor) -> Tensor:
    return relevance


def test_extensions_are_given_again(tmp_path: Path) -> None:
    path, x = tmp_path / "recipe.json", torch.rand(2, 3)
    explain = fxlrp.compile(Own().eval(), extensions=[halved_relevance])
    explain.save(path)
    with pytest.raises(RecipeError, match=r"needs extensions for \['halved'\], not for \[\]"):
        fxlrp.load(path, Own().eval())
    assert torch.equal(fxlrp.load(path, Own().eval(), extensions=[halved_relevance])(x), explain(x))


def test_any_tensor_has_a_fingerprint(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(12.0).reshape(3, 4).T)
            self.register_buffer("none", torch.empty(0))
            self.register_buffer("scalar", torch.tensor(3, dtype=torch.int64))
            self.register_buffer("low", torch.ones(3, dtype=torch.bfloat16))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    model = Odd().eval()
    fxlrp.compile(model).save(tmp_path / "recipe.json")
    fxlrp.load(tmp_path / "recipe.json", copy.deepcopy(model))
    model.low[1] += 1  # type: ignore[operator, index]
    with pytest.raises(RecipeError, match="the values of 'low' differ"):
        fxlrp.load(tmp_path / "recipe.json", model)


class Held(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.tensor(factor)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_other_constants_are_refused(tmp_path: Path) -> None:
    fxlrp.compile(Held(2.0).eval()).save(tmp_path / "recipe.json")
    with pytest.raises(RecipeError, match="the rules of its operations differ"):
        fxlrp.load(tmp_path / "recipe.json", Held(3.0).eval())


def test_a_rule_that_is_a_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a recipe cannot contain code"):
        saved(tmp_path, [("conv2d", halved_relevance.rule)])


def test_a_truncated_recipe_and_meta_tensors(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"format": 1}')
    with pytest.raises(RecipeError, match="no entry 'versions'"):
        fxlrp.load(tmp_path / "recipe.json", nn.Linear(2, 2))
    fxlrp.compile(nn.Linear(2, 2, device="meta").eval()).save(tmp_path / "recipe.json")
    fxlrp.load(tmp_path / "recipe.json", nn.Linear(2, 2, device="meta").eval())


def test_rules_by_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    def made() -> type[nn.Module]:
        class Layer(nn.Linear):
            pass

        return Layer

    first, second = made(), made()
    model = nn.Sequential(first(3, 3), nn.ReLU(), second(3, 2)).eval()
    fxlrp.compile(model, [(second, rules.Epsilon(0.5))]).save(tmp_path / "recipe.json")
    with pytest.raises(RecipeError, match="the rules of its operations differ"):
        fxlrp.load(tmp_path / "recipe.json", model)

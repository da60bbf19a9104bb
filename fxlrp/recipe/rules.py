"""Convert presets to JSON and back."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from fxlrp.errors import RecipeError, RuleError
from fxlrp.rules.dictionaries import load
from fxlrp.rules.preset import Pair, Preset
from fxlrp.rules.selectors import FirstLayer, Inside, Selector
from fxlrp.rules.specs import Custom, Rule


def dump_preset(preset: Preset) -> dict[str, Any]:
    """Convert a preset to values that JSON supports.

    Raises:
        RecipeError: A selector is a predicate, or a rule is a function.
    """
    # Rules of extensions are not saved: the caller passes the extensions again.
    pairs = [
        {"selector": _dump_selector(pair.selector), "rule": _dump_rule(pair.rule), "origin": pair.origin}
        for pair in preset.pairs
        if not pair.by_extension
    ]
    start = {"starts_with_one": True} if preset.starts_with_one else {}
    return {"name": preset.name, "epsilon": preset.epsilon, "pairs": pairs, **start}


def load_preset(saved: dict[str, Any], model: nn.Module) -> Preset:
    """Rebuild the preset. Classes of modules are looked up in ``model``; nothing is imported.

    Raises:
        RecipeError: A rule or class does not exist.
    """
    pairs = tuple(
        Pair(_load_selector(pair["selector"], model), _load_rule(pair["rule"]), pair["origin"])
        for pair in saved["pairs"]
    )
    return Preset(saved["name"], pairs, saved["epsilon"], saved.get("starts_with_one", False))


def _dump_selector(selector: Selector) -> dict[str, Any]:
    if isinstance(selector, FirstLayer):
        return {"first layer": ""}
    if isinstance(selector, str):
        return {"name": selector}
    if isinstance(selector, Inside):
        return {"inside": list(selector.paths)}
    if isinstance(selector, type):
        return {"class": _name(selector)}
    raise RecipeError(
        f"the selector {getattr(selector, '__name__', selector)!r} is a function, and a recipe cannot contain code: "
        "select by a class, a glob on the module path or the name of an operation"
    )


def _load_selector(saved: dict[str, Any], model: nn.Module) -> Selector:
    kind, value = next(iter(saved.items()), ("", ""))
    if kind == "inside":
        return Inside(tuple(value))
    if kind == "name":
        return str(value)
    if kind == "first layer":
        return FirstLayer()
    if kind != "class":
        raise RecipeError(f"this version of fxlrp has no selector {saved}")
    for module in model.modules():
        for cls in type(module).__mro__:
            if _name(cls) == value:
                return cls
    raise RecipeError(f"the recipe has a rule for modules of the class {value}, but the model does not have any")


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _dump_rule(rule: Rule) -> dict[str, Any]:
    if isinstance(rule, Custom):
        raise RecipeError(f"the rule {rule} is a function, and a recipe cannot contain code: use extensions=[...]")
    return {"rule": type(rule).__name__, **dataclasses.asdict(rule)}


def _load_rule(saved: dict[str, Any]) -> Rule:
    try:
        return load(saved)
    except RuleError as error:
        raise RecipeError(f"the recipe has a rule that is not valid: {error}") from error

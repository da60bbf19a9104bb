"""Rules as plain dictionaries, which JSON and TOML can express, and back."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from fxlrp.arguments import mapping as as_mapping
from fxlrp.arguments import shown
from fxlrp.errors import RuleError
from fxlrp.rules import specs
from fxlrp.rules.bounds import TensorBound
from fxlrp.rules.preset import Pair, Preset
from fxlrp.rules.presets import PRESETS
from fxlrp.rules.rule import Rule
from fxlrp.rules.selectors import FirstLayer, Inside, Selector

# Rules that have a different name in dictionaries of version 0.1.
_RENAMED = {"Pass": "PassThrough"}
_WHOLE = {"name", "epsilon", "starts_with_one", "rules"}
_CHANGES = {"preset", "parameters", "rules"}


def to_dict(preset: Preset) -> dict[str, Any]:
    """Convert a preset, with the pairs in front of it, to a dictionary that JSON and TOML can express.

    Args:
        preset: The preset. ``fxlrp.presets.epsilon().override([...])`` has pairs in front of it.

    Returns:
        The dictionary, from which :func:`from_dict` makes an equal preset.

    Raises:
        RuleError: A selector is a predicate, a module or a class that is not of ``torch.nn``, or a rule is a function.

    Example:
        >>> import fxlrp
        >>> fxlrp.rules.to_dict(fxlrp.presets.epsilon().override([("layer4.*", fxlrp.rules.Gamma(0.1))]))["rules"]
        [{'select': 'layer4.*', 'origin': 'user pair 0', 'rule': 'Gamma', 'gamma': 0.1}]
    """
    if not isinstance(preset, Preset):
        raise RuleError(f"to_dict takes a preset, such as fxlrp.presets.epsilon(), not {shown(preset)}")
    pairs = [
        {"select": _dump_selector(pair.selector), "origin": pair.origin, **dump(pair.rule)} for pair in preset.pairs
    ]
    start = {"starts_with_one": True} if preset.starts_with_one else {}
    return {"name": preset.name, "epsilon": preset.epsilon, **start, "rules": pairs}


def from_dict(mapping: Mapping[str, Any]) -> Preset:
    """Make a preset from a dictionary, such as one that was read from JSON or TOML.

    Args:
        mapping: What :func:`to_dict` returned. Or the name of a ``preset``, its ``parameters`` if it has any, and
            ``rules`` in front of it: dictionaries with the keys ``select``, ``rule`` and those of the parameters of the
            rule. ``select`` is an operation, a glob on the module path, ``{"first_layer": True}`` or
            ``{"class": "Conv2d"}`` with a class of ``torch.nn``.

    Returns:
        The preset, for ``rules=`` of :func:`fxlrp.compile`, which takes the dictionary, too.

    Raises:
        RuleError: A key is unknown or missing, or a value is not valid. The message names the key.

    Example:
        >>> import fxlrp
        >>> wanted = {"preset": "epsilon", "rules": [{"select": "layer4.*", "rule": "Gamma", "gamma": 0.1}]}
        >>> print(fxlrp.rules.from_dict(wanted).pairs[0].rule)
        Gamma(gamma=0.1)
    """
    mapping = as_mapping("rules", mapping, "keys to values", RuleError)
    if any(isinstance(value, Rule) for value in mapping.values()):
        raise RuleError(
            f"rules as objects must be a list of (selector, rule) pairs, not a dictionary: {shown(mapping)}"
        )
    _check_keys(mapping, _WHOLE if "name" in mapping else _CHANGES, "the dictionary of rules")
    tables = mapping.get("rules", [])
    if not isinstance(tables, list | tuple):
        raise RuleError(f"rules: must be a list of dictionaries, not {shown(tables)}")
    pairs = [_pair(table, f"rules[{index}]") for index, table in enumerate(tables)]
    if "name" in mapping:
        epsilon, start = mapping.get("epsilon", 1e-6), mapping.get("starts_with_one", False)
        if not isinstance(mapping["name"], str) or not isinstance(start, bool):
            raise RuleError("name: must be a string, and starts_with_one True or False")
        return Preset(mapping["name"], tuple(pairs), epsilon, start)
    name, parameters = mapping.get("preset", "default"), mapping.get("parameters", {})
    if not isinstance(name, str) or name not in PRESETS:
        raise RuleError(f"preset: there is no preset {shown(name)}; choose one of: {', '.join(PRESETS)}")
    base = _made(name, as_mapping("parameters", parameters, "names to values", RuleError))
    return base.override([(pair.selector, pair.rule) for pair in pairs])


def _made(name: str, parameters: Mapping[str, Any]) -> Preset:
    known = inspect.signature(PRESETS[name]).parameters
    unknown = [key for key in parameters if key not in known]
    missing = [each.name for each in known.values() if each.default is each.empty and each.name not in parameters]
    if unknown or missing:
        problem = f"has no parameter {unknown[0]!r}" if unknown else f"needs the parameter {missing[0]!r}"
        raise RuleError(f"parameters: the preset {name!r} {problem}; its parameters are: {', '.join(known) or 'none'}")
    return PRESETS[name](**parameters)


def dump(rule: Rule) -> dict[str, Any]:
    """The name of a rule and its parameters.

    Raises:
        RuleError: The rule is a function.
    """
    if isinstance(rule, specs.Custom):
        raise RuleError(f"the rule {rule} is a function, which a dictionary cannot contain")
    fields = {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule) if field.init}
    defaults = {field.name: field.default for field in dataclasses.fields(rule)}
    changed = {name: value for name, value in fields.items() if value is not None and value != defaults[name]}
    return {"rule": type(rule).__name__, **{name: _plain(value) for name, value in changed.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, TensorBound):
        return {"shape": list(value.shape), "values": list(value.values)}
    return list(value) if isinstance(value, tuple) else value


def load(saved: Mapping[str, Any]) -> Rule:
    """The rule of a name and parameters.

    Raises:
        RuleError: There is no such rule or parameter, or a value is not valid.
    """
    name = saved["rule"]
    cls = getattr(specs, _RENAMED.get(name, name), None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, Rule)) or cls.__name__ not in specs.__all__:
        raise RuleError(f"this version of fxlrp has no rule {shown(name)}")
    if cls in (Rule, specs.Custom):
        raise RuleError(f"this version of fxlrp has no rule {shown(name)} that a dictionary can contain")
    parameters = {key: _load_parameter(value) for key, value in saved.items() if key != "rule"}
    unknown = parameters.keys() - {field.name for field in dataclasses.fields(cls)}
    if unknown:
        raise RuleError(f"the rule {name} has no parameter {', '.join(map(repr, sorted(unknown)))}")
    return cls(**parameters)


def _load_parameter(value: Any) -> Any:
    if isinstance(value, Mapping):
        _check_keys(value, {"shape", "values"}, "a tensor", needed=("shape", "values"))
        return TensorBound.of(value["shape"], value["values"])
    return tuple(value) if isinstance(value, list) else value


def _pair(table: Any, where: str) -> Pair:
    if not isinstance(table, Mapping):
        raise RuleError(f"{where}: must be a dictionary with the keys 'select' and 'rule', not {shown(table)}")
    for key in ("select", "rule"):
        if key not in table:
            raise RuleError(f"{where}: the key {key!r} is missing")
    origin = table.get("origin", "")
    if not isinstance(origin, str):
        raise RuleError(f"{where}: origin must be a string, not {shown(origin)}")
    rule = {key: value for key, value in table.items() if key not in ("select", "origin")}
    try:
        return Pair(_load_selector(table["select"]), load(rule), origin)
    except RuleError as error:
        raise RuleError(f"{where}: {error}") from error


def _dump_selector(selector: Selector) -> Any:
    if isinstance(selector, str):
        return selector
    if isinstance(selector, FirstLayer):
        return {"first_layer": True}
    if isinstance(selector, Inside):
        return {"inside": list(selector.paths)}
    if isinstance(selector, type) and getattr(nn, selector.__name__, None) is selector:
        return {"class": selector.__name__}
    raise RuleError(
        f"the selector {getattr(selector, '__name__', selector)!r} is code, which a dictionary cannot contain: select "
        "by a class of torch.nn, a glob on the module path or the name of an operation"
    )


def _load_selector(saved: Any) -> Selector:
    if isinstance(saved, str):
        return saved
    known = {"first_layer", "inside", "class"}
    if not isinstance(saved, Mapping) or len(saved) != 1 or not saved.keys() <= known:
        raise RuleError(
            f"select: must be a string or a dictionary with one of {', '.join(sorted(known))}, not {shown(saved)}"
        )
    ((kind, value),) = saved.items()
    if kind == "first_layer" and value is True:
        return FirstLayer()
    if kind == "inside" and isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return Inside(tuple(value))
    cls = getattr(nn, value, None) if kind == "class" and isinstance(value, str) else None
    if isinstance(cls, type) and issubclass(cls, nn.Module):
        return cls
    raise RuleError(f"select: {kind} cannot be {shown(value)}")


def _check_keys(mapping: Mapping[str, Any], known: set[str], what: str, needed: tuple[str, ...] = ()) -> None:
    unknown = sorted(str(key) for key in mapping.keys() - known)
    missing = [key for key in needed if key not in mapping]
    if unknown or missing:
        problem = f"an unknown key {unknown[0]!r}" if unknown else f"no key {missing[0]!r}"
        raise RuleError(f"{what} has {problem}; its keys are: {', '.join(sorted(known))}")

"""Calls that compile, and that choose rules."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import fxlrp
from fuzz import rights, subjects
from fuzz.judge import Call
from fuzz.rights import Right
from fxlrp import presets, rules

RULES: Right = rights.optional(rights.empty, lambda value: value == {} and isinstance(value, dict))
SHAPES: Right = rights.optional(lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value))
COMPILE: dict[str, Right] = {
    "model": rights.never,
    "rules": RULES,
    "constants": lambda value: isinstance(value, list | tuple | set) and not value,
    "capture": rights.never,
    "dynamic_shapes": SHAPES,
    "extensions": rights.empty,
    "optimize": rights.flag,
}


def _is_example(value: Any) -> bool:
    """Inputs of four features, of any real type: the type of an example says nothing about calls."""
    while isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, dict):
        value = value.get("input")
    is_real = isinstance(value, torch.Tensor) and not value.is_nested and value.is_floating_point()
    return value is None or (is_real and value.dim() > 0)


def _compiled(**options: Any) -> None:
    fxlrp.compile(**options)


def _explained(**options: Any) -> None:
    x = options.pop("x", subjects.x())
    fxlrp.autograd(**options)(x)


def _backend(**options: Any) -> None:
    fxlrp.backend(**options)


def _selected(**options: Any) -> None:
    fxlrp.compile(subjects.Several().eval(), **options)


def _used(cls: Callable[..., Any], **parameters: Any) -> None:
    rule = cls(**parameters)
    assert str(rule) and repr(rule) and rule == rule and hash(rule) == hash(rule)


def _used_on_a_layer(cls: Callable[..., Any], **parameters: Any) -> None:
    fxlrp.compile(subjects.dense(), [("0", cls(**parameters))])(subjects.x())


def _preset(made: Callable[..., Any], **parameters: Any) -> None:
    fxlrp.compile(subjects.dense(), made(**parameters))(subjects.x())


def _extended(function: Any, operands: Any, relevance: Any) -> None:
    fxlrp.compile(subjects.dense(), extensions=[fxlrp.rule_for(function, operands)(relevance)])(subjects.x())


def _logged(**chosen: Any) -> None:
    try:
        fxlrp.set_logs(**chosen)
    finally:
        fxlrp.set_logs()


def _pass(relevance: Any) -> Any:
    return relevance


def _parameter(name: str, default: Any) -> Right:
    """The right values of a parameter of a rule."""
    if name == "function":
        return rights.function
    if isinstance(default, bool):
        return rights.flag
    if name in ("operand", "signal"):
        return rights.optional(rights.whole(0)) if default is None else rights.whole(0)
    if name == "dims":
        return rights.optional(lambda value: isinstance(value, list | tuple) and all(map(rights.whole(-9), value)))
    if name == "alpha":
        return rights.one_of(2, 2.0)
    return (lambda value: abs(float(value) - 1) < 1e-9) if name == "beta" and default == 1.0 else rights.number()


def _bound(least: float, most: float) -> Right:
    """Bounds of inputs of four features on one side of -1 or 1."""

    def holds(value: Any) -> bool:
        if rights.number(least, most)(value):
            return True
        given = torch.as_tensor(value.copy() if hasattr(value, "copy") and hasattr(value, "dtype") else value)
        is_real = not (given.is_complex() or given.dtype == torch.bool or isinstance(value, dict | set | str | bool))
        numbers = given.to_dense().double() if given.layout != torch.strided else given.double()
        return is_real and numbers.numel() > 0 and bool(((numbers >= least) & (numbers <= most)).all())

    return holds


def _calls() -> dict[str, Call]:
    found: dict[str, Call] = {
        "compile": Call(
            _compiled,
            lambda: {"model": subjects.dense()},
            COMPILE
            | {
                "example_inputs": _is_example,
                "output": rights.optional(rights.empty, rights.one_of("", "0")),
                "at": rights.optional(rights.names("", "0", "*")),
                "checkpoint": rights.any_of(rights.flag, rights.whole(1)),
                "passes": rights.empty,
                "differentiable": rights.flag,
                "debug": rights.flag,
            },
            takes_code=("rules",),
        ),
        "compile, several outputs": Call(
            _selected, lambda: {"output": "x"}, {"output": rights.any_of(rights.names("x"), rights.one_of("", "*"))}
        ),
        "autograd": Call(
            _explained,
            lambda: {"model": subjects.dense()},
            COMPILE | {"x": rights.features, "example_inputs": _is_example, "compiler": rights.optional(callable)},
            takes_code=("compiler",),
        ),
        "backend": Call(
            _backend,
            dict,
            {name: COMPILE[name] for name in ("rules", "constants", "extensions", "optimize")}
            | {"compiler": rights.optional(callable)},
            takes_code=("compiler",),
        ),
        "load": Call(
            fxlrp.load,
            lambda: {"path": subjects.recipe(), "model": subjects.dense()},
            {
                "path": rights.never,
                "model": rights.never,
                "extensions": rights.empty,
                "passes": rights.empty,
                "weights": rights.flag,
            },
            also=(OSError,),
        ),
        "Preset": Call(
            functools.partial(_preset, presets.Preset),
            lambda: {"name": "mine"},
            {
                "name": rights.text,
                "pairs": lambda value: value == () and isinstance(value, tuple),
                "epsilon": rights.number(),
                "starts_with_one": rights.flag,
            },
        ),
        "Preset.override": Call(
            lambda pairs: fxlrp.compile(subjects.dense(), presets.epsilon().override(pairs)),
            lambda: {"pairs": [("0", rules.ZPlus())]},
            {"pairs": lambda value: isinstance(value, list | tuple | set) and not value},
        ),
        "selector": Call(
            lambda selector: fxlrp.compile(subjects.dense(), [(selector, rules.ZPlus())]),
            lambda: {"selector": "0"},
            {"selector": rights.any_of(rights.one_of("", "0", "*", nn.Linear), rights.function)},
            takes_code=("selector",),
        ),
        "rule of a selector": Call(
            lambda rule: fxlrp.compile(subjects.dense(), [("0", rule)]),
            lambda: {"rule": rules.ZPlus()},
            {"rule": rights.never},
        ),
        "rule_for": Call(
            _extended,
            lambda: {"function": torch.relu, "operands": ["input"], "relevance": _pass},
            {"function": rights.never, "operands": rights.nothing, "relevance": rights.function},
            takes_code=("relevance",),
        ),
        "Optimizations": Call(
            lambda **chosen: fxlrp.compile(subjects.dense(), optimize=fxlrp.Optimizations(**chosen)),
            dict,
            {each.name: rights.flag for each in dataclasses.fields(fxlrp.Optimizations)},
        ),
        "set_logs": Call(_logged, dict, dict.fromkeys(("passes", "annotate", "emit"), rights.flag)),
        "to_dict": Call(rules.to_dict, lambda: {"preset": presets.epsilon()}, {"preset": rights.never}),
    }
    return found | _of_rules() | _of_presets() | _of_dictionaries()


def _of_rules() -> dict[str, Call]:
    found = {}
    for name in rules.__all__:
        cls = getattr(rules, name)
        if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls) and dataclasses.fields(cls)):
            continue
        needed = {"low": -1.0, "high": 1.0} if name == "ZBox" else {"function": _pass} if name == "Custom" else {}
        right = {each.name: _parameter(each.name, each.default) for each in dataclasses.fields(cls)}
        if name == "ZBox":
            right |= {"low": _bound(-rights.LARGEST, 1.0), "high": _bound(-1.0, rights.LARGEST)}
        on_layer = name in ("ClippedEpsilon", "Epsilon", "Gamma", "RelativeEpsilon", "ZBox", "ZPlus", "AlphaBeta")
        use = _used_on_a_layer if on_layer else _used
        found[f"rules.{name}"] = Call(functools.partial(use, cls), functools.partial(dict, needed), right)
    return found


def _of_presets() -> dict[str, Call]:
    found = {}
    for name, made in presets.PRESETS.items():
        parameters = inspect.signature(made).parameters
        needed = {"low": -1.0, "high": 1.0} if "low" in parameters else {}
        right = {each: _parameter(each, 0.0) for each in parameters if each not in ("low", "high")}
        if right and name not in ("attnlrp", "cplrp", "mambalrp"):
            found[f"presets.{name}"] = Call(functools.partial(_preset, made), functools.partial(dict, needed), right)
    return found


def _of_dictionaries() -> dict[str, Call]:
    valid = rules.to_dict(presets.epsilon().override([("0", rules.Gamma(0.5))]))
    (table,) = valid["rules"]

    def made(**changed: Any) -> None:
        rules.from_dict({**valid, "rules": [{**table, **changed.pop("table", {})}], **changed})

    def in_table(**changed: Any) -> None:
        made(table=changed)

    def of_parameters(**changed: Any) -> None:
        rules.from_dict({"preset": "epsilon", **changed})

    return {
        "from_dict": Call(
            rules.from_dict,
            lambda: {"mapping": valid},
            {"mapping": lambda value: value == {} and isinstance(value, dict)},
        ),
        "from_dict, keys": Call(
            made,
            dict,
            {"name": rights.text, "epsilon": rights.number(), "rules": rights.empty, "starts_with_one": rights.flag},
        ),
        "from_dict, a pair": Call(
            in_table,
            dict,
            {
                "select": rights.text,
                "origin": rights.text,
                "rule": rights.never,
                "gamma": rights.number(),
                "bias": rights.flag,
            },
        ),
        "from_dict, a preset": Call(
            of_parameters,
            dict,
            {
                "preset": rights.never,
                "parameters": lambda value: value == {} and isinstance(value, dict),
                "rules": rights.empty,
            },
        ),
    }


CALLS = _calls()

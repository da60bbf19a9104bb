"""Turn what the user passes as ``rules=`` into a preset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fxlrp.arguments import shown
from fxlrp.errors import RuleError
from fxlrp.rules.dictionaries import from_dict
from fxlrp.rules.preset import Preset
from fxlrp.rules.presets import PRESETS, Rules, default
from fxlrp.rules.rule import Rule


def _needed(preset: Callable[..., Preset]) -> list[str]:
    """The parameters of a preset that have no default."""
    return [p.name for p in inspect.signature(preset).parameters.values() if p.default is p.empty]


def _call(name: str) -> str:
    return f"fxlrp.presets.{name}({', '.join(f'{parameter}=...' for parameter in _needed(PRESETS[name]))})"


def resolve(rules: Rules) -> Preset:
    """Turn the argument ``rules=`` of :func:`fxlrp.compile` into a preset.

    Raises:
        RuleError: The name is unknown, the preset needs parameters, or an item of the list is not a pair.
    """
    if rules is None:
        return default()
    if isinstance(rules, Preset):
        return rules
    if isinstance(rules, str):
        if rules not in PRESETS:
            raise RuleError(f"there is no preset {shown(rules)}; choose one of: {', '.join(PRESETS)}")
        needed = _needed(PRESETS[rules])
        if needed:
            raise RuleError(f"the preset {rules!r} needs {' and '.join(needed)}: {_call(rules)}")
        return PRESETS[rules]()
    if callable(rules) and rules in PRESETS.values():
        name = next(name for name, function in PRESETS.items() if function is rules)
        raise RuleError(f"rules=fxlrp.presets.{name} is a function that returns the preset: call it, {_call(name)}")
    if isinstance(rules, Rule) or (isinstance(rules, type) and issubclass(rules, Rule)):
        rule = f"{rules.__name__}(...)" if isinstance(rules, type) else rules
        raise RuleError(f"rules={rules} is a single rule; add a selector for its nodes: rules=[(selector, {rule})]")
    if isinstance(rules, Mapping):
        return from_dict(rules)
    pairs: Any = rules
    if not isinstance(pairs, Sequence):
        raise RuleError(
            "rules must be a preset's name, a preset, a dictionary or a list of (selector, rule) pairs, not "
            f"{shown(rules)}"
        )
    return default().override(pairs)

"""``fxlrp rules``: the presets, and the rules of one of them."""

from __future__ import annotations

import argparse
import inspect
import itertools
from typing import Any

from tabulate import tabulate

from fxlrp.command_line import add_command, parameter
from fxlrp.commands.arguments import missing_parameters, preset_named, preset_of
from fxlrp.operation import Family
from fxlrp.rules.presets import PRESETS
from fxlrp.rules.selectors import describe


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "rules",
        _run,
        help="list the presets, or show the rules of one",
        examples=(
            "fxlrp rules",
            "fxlrp rules epsilon_plus_flat",
            "fxlrp rules epsilon_gamma_box --parameters low=-2.1,-2.0,-1.8 high=2.6",
        ),
    )
    parser.add_argument("rules", nargs="?", metavar="PRESET|FILE", help="the preset, or a JSON file of rules")
    parser.add_argument(
        "--parameters", nargs="+", default=(), type=parameter, metavar="NAME=VALUE", help="parameters of the preset"
    )


def _run(options: argparse.Namespace) -> None:
    if options.rules is None:
        print(_presets())
        return
    if not options.rules.endswith(".json"):
        make = preset_named(options.rules)
        # Where a parameter has no default, its name stands for it.
        print(f"{_call(options.rules)}: {_first_line(make)}\n")
        missing = missing_parameters(make, dict(options.parameters))
        if missing:
            example = " ".join(f"{name}=NUMBER" for name in missing)
            print(f"{_described(make)}\n\nIts rules need {' and '.join(missing)}: --parameters {example}")
            return
    preset = preset_of(options)
    grouped = itertools.groupby(preset.pairs, key=lambda pair: pair.rule)
    rows = [(", ".join(describe(pair.selector) for pair in pairs), str(rule)) for rule, pairs in grouped]
    if rows:
        print(tabulate(rows, headers=("operations", "rule")), end="\n\n")
    families: dict[str, list[str]] = {}
    for family in Family:
        rule = preset.default(family)
        if rule is not None:
            families.setdefault(str(rule), []).append(family.value)
    others = [(", ".join(names), rule) for rule, names in families.items()]
    print(tabulate(others, headers=("all other operations of the families", "rule")))


def _presets() -> str:
    rows = [(_call(name), _first_line(make)) for name, make in PRESETS.items()]
    return tabulate(rows, headers=("preset", "rules"))


def _call(name: str) -> str:
    shown = []
    for each in inspect.signature(PRESETS[name]).parameters.values():
        shown.append(each.name if each.default is each.empty else f"{each.name}={each.default}")
    return f"{name}({', '.join(shown)})"


def _first_line(make: Any) -> str:
    line = (inspect.getdoc(make) or "").partition("\n")[0]
    return line.replace(":func:", "").replace("`", "")


def _described(make: Any) -> str:
    """The rules, as the documentation of the preset has them."""
    text = (inspect.getdoc(make) or "").partition("\nArgs:")[0].partition("\n\n")[2].strip()
    return text.replace(":class:`~fxlrp.rules.", "").replace(":func:`", "").replace("`", "")

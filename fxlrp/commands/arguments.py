"""Arguments that several commands have."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from fxlrp.command_line import parameter
from fxlrp.commands.weights import DEFAULT, RANDOM
from fxlrp.errors import InputError, RuleError
from fxlrp.rules.dictionaries import from_dict
from fxlrp.rules.preset import Preset
from fxlrp.rules.presets import PRESETS

MODEL = "torchvision:NAME, timm:NAME, hf:NAME (a family or a folder), or module:function"


def add_rules(parser: argparse.ArgumentParser, default: str = "default") -> None:
    """Declare ``--rules`` and ``--parameters``."""
    parser.add_argument(
        "--rules", default=default, metavar="PRESET|FILE", help="a preset (see fxlrp rules), or a JSON file of rules"
    )
    parser.add_argument(
        "--parameters",
        nargs="+",
        default=(),
        type=parameter,
        metavar="NAME=VALUE",
        help="parameters of the preset, such as low=-2.1,-2.0,-1.8 high=2.6; several numbers are one for each channel",
    )


def add_classifier(parser: argparse.ArgumentParser) -> None:
    """Declare what chooses a classifier, its weights, the rules and the class to explain."""
    parser.add_argument("--model", required=True, help=MODEL)
    parser.add_argument(
        "--weights",
        default=DEFAULT,
        metavar=f"{DEFAULT}|{RANDOM}|FILE",
        help="the weights of the library (default), an untrained model, or a file of torch.save or safetensors",
    )
    parser.add_argument("--classes", type=Path, metavar="FILE", help="the names of the classes, one in each line")
    add_rules(parser)
    parser.add_argument(
        "--target",
        default="top",
        metavar="top|N|NAME",
        help="the class: the largest output, an index or a name",
    )
    parser.add_argument("--output", metavar="KEY", help="the output of a model that returns several: an index or a key")


def preset_of(options: argparse.Namespace, known: Mapping[str, Any] | None = None) -> Preset:
    """The rules that the options choose.

    Args:
        options: The options.
        known: Values for parameters that the options do not give, as far as the preset has them.

    Raises:
        RuleError: There is no such preset or file, or a parameter is missing or unknown.
    """
    given = dict(options.parameters)
    if options.rules.endswith(".json"):
        if given:
            raise RuleError(f"--parameters are for presets: write them into {options.rules}")
        return _read(Path(options.rules))
    make = preset_named(options.rules)
    names = inspect.signature(make).parameters
    unknown = [name for name in given if name not in names]
    if unknown:
        has = f"has {', '.join(names)}" if names else "has none"
        raise RuleError(f"the preset {options.rules!r} has no parameter {unknown[0]!r}; it {has}")
    given = {**{name: value for name, value in (known or {}).items() if name in names}, **given}
    missing = missing_parameters(make, given)
    if missing:
        example = " ".join(f"{name}=NUMBER" for name in missing)
        raise RuleError(f"the preset {options.rules!r} needs {' and '.join(missing)}: --parameters {example}")
    preset: Preset = make(**given)
    return preset


def missing_parameters(make: Any, given: Collection[str]) -> list[str]:
    """The parameters of a preset without a default that are not given."""
    parameters = inspect.signature(make).parameters
    return [name for name, each in parameters.items() if each.default is each.empty and name not in given]


def preset_named(name: str) -> Any:
    """The function that makes a preset.

    Raises:
        RuleError: There is no such preset.
    """
    if name not in PRESETS:
        raise RuleError(f"there is no preset {name!r}; presets: {', '.join(sorted(PRESETS))}")
    return PRESETS[name]


def _read(path: Path) -> Preset:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise RuleError(f"--rules {path}: {error}") from error
    except ValueError as error:
        raise RuleError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RuleError(f"{path} is not a JSON object with the keys that fxlrp.rules.from_dict reads")
    return from_dict(found)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Declare ``--device``."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto is cuda where there is one")


def device_of(name: str) -> torch.device:
    """The device with a name.

    Raises:
        InputError: This machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # tensors on the meta device have no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: this machine has no such device ({reason})") from error
    return device

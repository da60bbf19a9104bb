"""The command line: ``fxlrp check`` and ``fxlrp survey``."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fxlrp
from fxlrp.command_line import Parser, non_negative, parameter
from fxlrp.errors import RuleError
from fxlrp.rules.preset import Preset
from fxlrp.rules.presets import PRESETS
from fxlrp.survey import __main__ as survey
from fxlrp.survey import models
from fxlrp.survey.measure import prepare, to_double


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    parser = Parser(prog="fxlrp", description="Layer-wise relevance propagation as a compiler pass.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="show the nodes at which an explanation creates or absorbs relevance")
    check.add_argument(
        "model", help="model, such as torchvision:resnet18, timm:vgg11 or transformers:bert; weights are random"
    )
    check.add_argument("--rules", default="epsilon", choices=sorted(PRESETS), help="the preset")
    check.add_argument(
        "--parameters",
        nargs="+",
        default=(),
        type=parameter,
        metavar="NAME=VALUE",
        help="parameters of the preset, such as low=-2.1,-2.0,-1.8 high=2.6; several numbers are one for each channel",
    )
    check.add_argument("--capture", default="auto", choices=("auto", "symbolic", "export"), help="the front end")
    check.add_argument(
        "--tolerance", type=non_negative, default=1e-6, help="smallest leak shown, relative to the output"
    )
    check.add_argument("--conserving", action="store_true", help="double precision, without biases, epsilon 1e-12")
    check.set_defaults(run=_check)
    survey.add_arguments(commands.add_parser("survey", help="try every model of torchvision, timm and transformers"))
    parser.run(arguments)


def _check(options: argparse.Namespace) -> None:
    rules = _preset(options)
    case = models.make(options.model)
    inputs = case.inputs
    if options.conserving:
        inputs = to_double(inputs)
        prepare(case.model, inputs)
    explain = fxlrp.compile(case.model, rules, example_inputs=inputs, capture=options.capture, **case.options)
    if isinstance(inputs, Tensor):
        balance = explain.balance(inputs)
    else:
        tensors: dict[str, Any] = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        balance = explain.balance(**tensors)
    print(f"{options.model}, {options.rules}, captured by {explain.front_end}\n\n{balance.table(options.tolerance)}")


def _preset(options: argparse.Namespace) -> Preset:
    """The preset with the parameters of the command line."""
    make = PRESETS[options.rules]
    known = inspect.signature(make).parameters
    given = dict(options.parameters)
    if options.conserving:
        if "epsilon" not in known:
            raise RuleError(f"--conserving needs a preset with an epsilon, and {options.rules!r} has none")
        given = {"epsilon": 1e-12, **given}
    missing = [name for name, each in known.items() if each.default is each.empty and name not in given]
    if missing:
        example = " ".join(f"{name}=NUMBER" for name in missing)
        raise RuleError(f"the preset {options.rules!r} needs {' and '.join(missing)}: --parameters {example}")
    return make(**given)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""``fxlrp check``: the nodes at which an explanation creates or absorbs relevance."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from torch import Tensor

import fxlrp
from fxlrp.command_line import add_command, non_negative
from fxlrp.commands.arguments import add_rules, preset_named, preset_of
from fxlrp.errors import RuleError
from fxlrp.survey import models
from fxlrp.survey.measure import prepare, to_double


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "check",
        _run,
        help="show the nodes at which an explanation creates or absorbs relevance",
        description="Show the nodes at which an explanation of a random input creates or absorbs relevance. The "
        "weights are random.",
        examples=(
            "fxlrp check torchvision:resnet18",
            "fxlrp check hf:bert --rules attnlrp --conserving",
            "fxlrp check hf:bert --rules cplrp --certify",
            "fxlrp check timm:vgg11 --rules epsilon_gamma_box --parameters low=-2.1,-2.0,-1.8 high=2.6",
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="torchvision:NAME, timm:NAME or hf:NAME (a family)")
    add_rules(parser, "epsilon")
    parser.add_argument("--capture", default="auto", choices=("auto", "symbolic", "export"), help="the front end")
    parser.add_argument(
        "--tolerance", type=non_negative, default=1e-6, help="smallest leak shown, relative to the output"
    )
    parser.add_argument("--conserving", action="store_true", help="double precision, without biases, epsilon 1e-12")
    parser.add_argument(
        "--certify", action="store_true", help="print a certificate, with an epsilon of 0, in place of the leaks"
    )


def _run(options: argparse.Namespace) -> None:
    known = {}
    if options.conserving:
        known = {"epsilon": 1e-12}
        if options.rules.endswith(".json"):
            raise RuleError(f"--conserving is for presets: leave it out, and write the epsilon into {options.rules}")
        if "epsilon" not in inspect.signature(preset_named(options.rules)).parameters:
            raise RuleError(f"--conserving needs a preset with an epsilon, and {options.rules!r} has none")
    if options.certify:
        known["epsilon"] = 0.0
    rules = preset_of(options, known)
    case = models.make(options.model)
    inputs = case.inputs
    if options.conserving:
        inputs = to_double(inputs)
        prepare(case.model, inputs)
    explain = fxlrp.compile(case.model, rules, example_inputs=inputs, capture=options.capture, **case.options)
    args: tuple[Tensor, ...] = ()
    tensors: dict[str, Any] = {}
    if isinstance(inputs, Tensor):
        args = (inputs,)
    else:
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    if options.certify:
        table = explain.certify(*args, **tensors).table()
    else:
        table = explain.balance(*args, **tensors).table(options.tolerance)
    print(f"{options.model}, {options.rules}, captured by {explain.front_end}\n\n{table}")

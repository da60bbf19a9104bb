"""The command line: ``fxlrp check`` and ``fxlrp survey``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

import fxlrp
from fxlrp.rules.presets import PRESETS
from fxlrp.survey import __main__ as survey
from fxlrp.survey import models
from fxlrp.survey.measure import prepare, to_double


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="fxlrp", description="Layer-wise relevance propagation as a compiler pass.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="show the nodes at which an explanation creates or absorbs relevance")
    check.add_argument(
        "model", help="model, such as torchvision:resnet18, timm:vgg11 or transformers:bert; weights are random"
    )
    check.add_argument("--rules", default="epsilon", choices=sorted(PRESETS), help="the preset")
    check.add_argument("--capture", default="auto", choices=("auto", "symbolic", "export"), help="the front end")
    check.add_argument("--tolerance", type=float, default=1e-6, help="smallest leak shown, relative to the output")
    check.add_argument("--conserving", action="store_true", help="double precision, without biases, epsilon 1e-12")
    check.set_defaults(run=_check)
    survey.add_arguments(commands.add_parser("survey", help="try every model of torchvision, timm and transformers"))
    options = parser.parse_args(arguments)
    options.run(options)


def _check(options: argparse.Namespace) -> None:
    case = models.make(options.model)
    inputs = case.inputs
    rules: fxlrp.presets.Rules = options.rules
    if options.conserving:
        inputs = to_double(inputs)
        prepare(case.model, inputs)
        rules = PRESETS[options.rules](epsilon=1e-12)
    explain = fxlrp.compile(case.model, rules, example_inputs=inputs, capture=options.capture, **case.options)
    if isinstance(inputs, Tensor):
        balance = explain.balance(inputs)
    else:
        balance = explain.balance(**{name: value for name, value in inputs.items() if isinstance(value, Tensor)})
    print(f"{options.model}, {options.rules}, captured by {explain.front_end}\n\n{balance.table(options.tolerance)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

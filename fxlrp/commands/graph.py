"""``fxlrp graph``: the annotated graph of a model as a table."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import fxlrp
from fxlrp.command_line import add_command, at_least_one, is_terminal
from fxlrp.commands.arguments import MODEL, add_rules, preset_of
from fxlrp.commands.images import existing
from fxlrp.commands.subject import Subject
from fxlrp.commands.subjects import compiled, load
from fxlrp.commands.weights import DEFAULT
from fxlrp.errors import InputError
from fxlrp.explainer import Explainer
from fxlrp.extras import require
from fxlrp.pictures import opened
from fxlrp.survey import models

_OPTIONS = {"table(fold=False)": "--all", "table(constants=True)": "--all", "hide=[...]": "--hide"}
_NARROWEST = 80  # a table of all columns needs this much, also in narrower terminals


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "graph",
        _run,
        help="show the graph of a model with the rule of every operation, and why it has that rule",
        description="Show the graph of a model with the rule of every operation, and why it has that rule. The weights "
        "of models of libraries\nare random, because rules do not depend on them.",
        examples=(
            "fxlrp graph torchvision:resnet18",
            "fxlrp graph timm:vit_tiny_patch16_224 --rules attnlrp --only 'blocks.0.*' --width 120",
            "fxlrp graph hf:bert --relevance --hide module shape",
            "fxlrp graph torchvision:resnet50 --html resnet50.html",
            "fxlrp graph mymodels:digits --input digits/3.png --html digits.html",
        ),
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    add_rules(parser)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="modules, nodes or globs of them to show")
    parser.add_argument("--relevance", action="store_true", help="only nodes through which relevance flows")
    parser.add_argument(
        "--hide",
        nargs="+",
        default=(),
        metavar="NAME",
        help="columns, operations or families to leave out",
    )
    parser.add_argument(
        "--width",
        type=at_least_one,
        metavar="N",
        help="characters of a line (default: those of the terminal)",
    )
    parser.add_argument("--all", action="store_true", help="a row for every shape operation, size and constant")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the graph as a page for a browser instead")
    parser.add_argument("--input", metavar="IMAGE|TEXT", help="an example, if module:function needs one")


def _run(options: argparse.Namespace) -> None:
    parts = {"--only": options.only, "--relevance": options.relevance, "--hide": options.hide}
    given = [name for name, value in {**parts, "--width": options.width, "--all": options.all}.items() if value]
    if options.html is not None and given:
        raise InputError(f"--html writes the whole graph: leave out {', '.join(given)}")
    explain, inputs = _explainer(options)
    if options.html is not None:
        named: dict[str, Any] = dict(inputs or {})
        own = [named.pop("")] if "" in named else []
        page = explain.graph(options.html, *own, **named)
        print(f"{options.html}: {len(page.graph.nodes)} nodes in {len(page.graph.groups)} groups")
        return
    width = options.width
    if width is None and is_terminal(sys.stdout):
        width = max(shutil.get_terminal_size().columns, _NARROWEST)
    try:
        text = explain.table(
            only=options.only,
            relevance=True if options.relevance else None,
            hide=options.hide,
            width=width,
            fold=False if options.all else None,
            constants=options.all,
        )
    except InputError as error:
        raise InputError(_as_options(str(error))) from error
    print(_as_options(text))


def _as_options(text: str) -> str:
    """A text of the table, with the options of the command in place of the arguments of ``table``."""
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return text


def _explainer(options: argparse.Namespace) -> tuple[Explainer, Mapping[str, Tensor] | None]:
    """The explainer, and the inputs by name that the user gave; None if there are none."""
    library, _, model = options.model.partition(":")
    if library in models.LIBRARIES or (library == "hf" and not Path(model).exists()):
        if options.input:
            raise InputError(f"--input is for module:function and folders: {options.model} has an example of its own")
        case = models.make(options.model)
        rules = preset_of(options)
        return fxlrp.compile(case.model, rules, example_inputs=case.inputs, **case.options), None
    subject = load(options.model, DEFAULT, None)
    rules = preset_of(options, subject.normalization.bounds if subject.normalization else {})
    example = _example(subject, options.input)
    explain = compiled(subject, rules, example)
    try:
        explain.nodes  # noqa: B018
    except InputError as error:
        raise InputError(f"{options.model} cannot be captured without an input: give an example by --input") from error
    return explain, example if options.input else None


def _example(subject: Subject, given: str | None) -> Mapping[str, Tensor] | None:
    """The inputs that an image or a text becomes; None without one, if the model says not which it takes."""
    if given is None and subject.kind is None:
        return None
    path = existing(given) if given is not None else None
    if subject.kind == "text" or (given is not None and path is None):
        return subject.text(given or "an example")[1]
    if path is None:
        return {"": subject.image(require("PIL.Image", "vision").new("RGB", (256, 256)))[None]}
    if path.is_dir():
        raise InputError(f"--input {given} is a folder: give an image")
    try:
        return {"": subject.image(opened(path))[None]}
    except InputError as error:
        raise InputError(f"--input {given}: {error}") from error

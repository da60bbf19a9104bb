"""``fxlrp explain``: explain images or texts by a model, and write the pictures into a folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from fxlrp.command_line import add_command, at_least_one, in_short, one_line
from fxlrp.commands.arguments import add_classifier, add_device, device_of, preset_of
from fxlrp.commands.subject import Kind, Subject
from fxlrp.commands.subjects import classifier_of
from fxlrp.commands.weights import RANDOM
from fxlrp.errors import InputError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "explain",
        _run,
        help="explain images or texts, and write the pictures into a folder",
        description="Explain images or texts by a classifier. For each of them, a picture (an HTML page for a text) is "
        "written into the\nfolder --out, and a line into its summary.csv. The exit status is 1 if some could not be "
        "explained.",
        examples=(
            "fxlrp explain cat.jpg --model timm:resnet50",
            "fxlrp explain photos/ --model torchvision:vgg16 --rules epsilon_gamma_box --target 'tabby' --out heatmaps",
            "fxlrp explain cat.jpg --model torchvision:resnet18 --weights resnet18.pth --device cuda --batch 16",
            'fxlrp explain "a great film" --model hf:distilbert-base-uncased-finetuned-sst-2-english --rules attnlrp',
            "fxlrp explain digits/ --model mymodels:digits --target 3",
        ),
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE|FOLDER|TEXT",
        help="images, folders of images, or texts; a .txt file has a text in each line",
    )
    add_classifier(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("explanations"),
        metavar="FOLDER",
        help="the folder of the pictures (default: explanations)",
    )
    add_device(parser)
    parser.add_argument("--batch", type=at_least_one, default=8, metavar="N", help="images at a time (default: 8)")
    parser.add_argument(
        "--no-balance", action="store_true", help="do not find out which operations kept relevance, which takes longer"
    )


def _run(options: argparse.Namespace) -> int:
    device = device_of(options.device)
    subject = classifier_of(options)
    kind = _kind(subject, options.inputs)
    known = subject.normalization.bounds if subject.normalization else {}
    rules = preset_of(options, known)
    target = subject.target(options.target)
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: give a folder")
    # Imported here, so that --help needs none of this.
    from fxlrp.commands import image_run, summary, text_run

    print(f"{options.model}, {subject.weights}, rules {options.rules}, on {device}")
    print(f"inputs: {subject.preparation}")
    if options.weights == RANDOM:
        print("the weights are random: the explanations show what the architecture does, not what it has learned")
    options.out.mkdir(parents=True, exist_ok=True)
    run = image_run if kind == "image" else text_run
    results = run.explained(subject, rules, target, options, device)
    done = [each for each in results if each.problem is None]
    print(summary.table(done, with_balance=not options.no_balance))
    summary.write(options.out / "summary.csv", results)
    for each in results:
        if each.problem is not None:
            print(f"fxlrp: not explained: {in_short(each.name)}: {one_line(each.problem)}", file=sys.stderr)
    print(f"{len(done)} of {len(results)} explained, in {options.out}")
    return 0 if len(done) == len(results) else 1


def _kind(subject: Subject, inputs: list[str]) -> Kind:
    """Whether the inputs are images or texts.

    Raises:
        InputError: The model explains the other, or a file does not exist.
    """
    from fxlrp.commands.images import existing, is_image_name

    if any(not each.strip() for each in inputs):
        raise InputError("an empty text cannot be explained")
    present = [each for each in inputs if existing(each) is not None]
    paths = [each for each in present if Path(each).suffix != ".txt"]
    named = [each for each in inputs if " " not in each and (is_image_name(each) or Path(each).suffix == ".txt")]
    missing = [each for each in named if each not in present]
    if missing:
        raise InputError(f"there is no file or folder {missing[0]!r}")
    if subject.kind == "text" and paths:
        raise InputError(f"{paths[0]} is not a text or a .txt file, and the model explains texts")
    if subject.kind == "image" and len(paths) < len(inputs):
        other = next(each for each in inputs if each not in paths)
        if other in present:
            raise InputError(f"{other} is a text file, and the model explains images")
        raise InputError(f"there is no file or folder {in_short(other)!r}")
    if paths and len(paths) < len(inputs):
        raise InputError("give images or texts, not both in one call")
    return "image" if paths else "text"

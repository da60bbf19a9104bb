"""``fxlrp dataset``: write the relevance of all images of a folder into a Zarr store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from fxlrp.command_line import add_command, at_least_one, is_terminal
from fxlrp.commands.arguments import add_classifier, add_device, device_of, preset_of
from fxlrp.commands.subjects import check_output, classifier_of, compiled
from fxlrp.errors import InputError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "dataset",
        _run,
        help="write the relevance of a folder of images into a Zarr store",
        description="Explain all images of a folder by a classifier, and write their relevance into a Zarr store. A "
        "run that was interrupted\nis continued by the same call. Needs the extra data.",
        examples=(
            "fxlrp dataset photos/ --model timm:resnet50 --out relevance.zarr --batch 32 --workers 4",
            "fxlrp dataset photos/ --model torchvision:vgg16 --rules epsilon_plus --dtype float16 --device cuda",
        ),
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder; images in folders below it count")
    add_classifier(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("relevance.zarr"),
        metavar="STORE",
        help="the store (default: relevance.zarr)",
    )
    add_device(parser)
    parser.add_argument("--batch", type=at_least_one, default=16, metavar="N", help="images at a time (default: 16)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images (default: 0)")
    parser.add_argument("--dtype", choices=("float16", "float32", "float64"), help="the type of the stored relevance")


def _run(options: argparse.Namespace) -> int:
    device = device_of(options.device)
    subject = classifier_of(options)
    if subject.kind == "text":
        raise InputError("the model explains texts: fxlrp explain does that")
    known = subject.normalization.bounds if subject.normalization else {}
    rules = preset_of(options, known)
    target = subject.target(options.target)
    # Imported here, so that --help does not need it.
    from fxlrp import data

    images = data.Images(options.folder, subject.image)
    print(f"{options.model}, {subject.weights}, rules {options.rules}, on {device}")
    print(f"inputs: {subject.preparation}")
    subject.model.to(device)
    first = torch.stack([images[0]]).to(device)
    explain = compiled(subject, rules, {"": first})
    check_output(subject, explain(first, return_output=True)[1], target)
    found = data.explain(
        explain,
        images,
        options.out,
        target=target,
        batch_size=options.batch,
        num_workers=options.workers,
        dtype=options.dtype,
        progress=is_terminal(sys.stderr),
    )
    print(f"{found.samples} images explained, in {options.out}")
    return 0

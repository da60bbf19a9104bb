"""`python -m fxlrp.demo`: explain what a network trained on ImageNet sees in photographs, without a download."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import show
from fxlrp.balance import Balance
from fxlrp.command_line import Parser
from fxlrp.demo.account import account, shortened
from fxlrp.demo.network import SIDE, class_names, load_network, normalized
from fxlrp.demo.photographs import PHOTOGRAPHS, photograph
from fxlrp.errors import InputError
from fxlrp.rules.presets import PRESETS, Preset

LEGEND = """
The picture is {}. Red pixels speak for the class, blue pixels against it. In the last column
red pixels speak for the first class, and blue pixels for the second.
"""

SHARES = """
Why little of a logit reaches the pixels: a bias is a part of the output of its layer, and keeps its share of the
relevance. The network has 49 convolutions with biases, one after the other, so little remains at the end. The
pictures are not wrong for that: each shows where the remaining relevance lies, in colors that are scaled to it,
and not how much of the logit it is. With --rules epsilon_gamma_box more arrives: about 1% of the logit of the cat."""


def parser() -> Parser:
    """The parser of the arguments."""
    parser = Parser(prog="python -m fxlrp.demo", description=__doc__)
    parser.set_defaults(run=_run)
    parser.add_argument(
        "photographs",
        nargs="*",
        default=["cat", "cat-and-coffee", "rocket"],
        metavar="PHOTOGRAPH",
        help=f"{', '.join(PHOTOGRAPHS)}, or the path of an image (default: cat cat-and-coffee rocket)",
    )
    parser.add_argument("--rules", default="default", choices=sorted(PRESETS), help="the preset (default: %(default)s)")
    parser.add_argument("--output", type=Path, default="photo.png", help="path of the PNG (default: %(default)s)")
    return parser


def check(photographs: Sequence[str], output: Path) -> None:
    """Check the files that are named.

    Raises:
        InputError: A photograph does not exist, or the picture cannot be written or would overwrite one.
    """
    if output.suffix != ".png" or not output.parent.is_dir():
        raise InputError(f"--output must be a .png file in a folder that exists, not {output}")
    for name in photographs:
        if name in PHOTOGRAPHS:
            continue
        if not Path(name).is_file():
            raise InputError(f"{name!r} is not a file, and not one of {', '.join(PHOTOGRAPHS)}")
        if Path(name).resolve() == output.resolve():
            raise InputError(f"--output {output} would overwrite the photograph: give another name")


def preset(name: str) -> Preset:
    """The preset of a name, with the range of normalized pixels if it needs one."""
    wanted = inspect.signature(PRESETS[name]).parameters
    return PRESETS[name](**{key: value for key, value in {"low": -1.0, "high": 1.0}.items() if key in wanted})


@dataclass(frozen=True)
class Explained:
    """An image with the relevance of two classes, and of the contrast between them."""

    image: Tensor
    names: tuple[str, str]
    probabilities: tuple[float, float]
    relevance: tuple[Tensor, Tensor]
    contrast: Tensor
    balance: Balance

    def pictures(self) -> tuple[list[Any], list[str]]:
        """The pictures of a row, and their titles."""
        (first, second), (left, right) = self.names, self.probabilities
        maps = [show.heatmap(relevance) for relevance in (*self.relevance, self.contrast)]
        cells = [self.image, maps[0], show.overlay(self.image, self.relevance[0]), *maps[1:]]
        return cells, ["", f"{first}, {left:.0%}", first, f"{second}, {right:.0%}", f"{first} − {second}"]


def explained(
    network: nn.Module, explain: fxlrp.Explainer, image: Tensor, names: Sequence[str], classes: Sequence[str] | None
) -> Explained:
    """Explain two classes of an image.

    Args:
        network: The network.
        explain: Its explainer.
        image: The image, with values in [0, 1].
        names: The names of all classes.
        classes: The names of two classes. None means the two likeliest ones.
    """
    x = normalized(image)
    with torch.inference_mode():
        probabilities = network(x)[0].softmax(0)
        chosen = probabilities.topk(2).indices.tolist() if classes is None else [names.index(each) for each in classes]
        both = explain(x, target=fxlrp.targets.each(chosen))
        contrast = explain(x, target=fxlrp.targets.contrast(*chosen))
    first, second = chosen
    return Explained(
        image,
        (names[first], names[second]),
        (float(probabilities[first]), float(probabilities[second])),
        (both[0], both[1]),
        contrast,
        explain.balance(x, target=first),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo.

    Args:
        arguments: The words of the command line; None means those of the process.

    Raises:
        SystemExit: The exit status is 2, for a wrong call or a file that is not an image.
    """
    parser().run(arguments)


def _run(options: argparse.Namespace) -> None:
    check(options.photographs, options.output)
    rules, photographs = preset(options.rules), {name: photograph(name) for name in options.photographs}
    images = {name: each.read(SIDE) for name, each in photographs.items()}
    network, names = load_network(), class_names()
    explain = fxlrp.compile(network, rules=rules, example_inputs=torch.zeros(1, 3, SIDE, SIDE))

    print(f"EfficientNet-Lite0, trained on ImageNet, with the rules of the preset {options.rules}:\n")
    print(shortened(explain.table(hide=["node", "relevance"], width=120)))
    rows = []
    for name, image in images.items():
        each = explained(network, explain, image, names, photographs[name].classes)
        print(f"\n{name}: {each.names[0]} {each.probabilities[0]:.1%}, {each.names[1]} {each.probabilities[1]:.1%}")
        # What starts with one is a modified gradient, and does not divide the logit among the pixels.
        print(account(each.balance) if not rules.starts_with_one else f"{options.rules} does not distribute the logit.")
        rows.append(each.pictures())
    if options.rules == "default":
        print(SHARES)
    show.grid([cells for cells, _ in rows], titles=[titles for _, titles in rows]).save(options.output)
    print(LEGEND.format(options.output))


if __name__ == "__main__":
    main()

"""Pixel flipping of a trained network on photographs, by preset: EfficientNet-Lite0 with the weights of ImageNet."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fxlrp
from fxlrp.demo.network import SIDE, load_network, normalized
from fxlrp.demo.photographs import PHOTOGRAPHS
from fxlrp.evaluate import pixel_flipping
from fxlrp.evaluate.curves import Flipping

NAMES = ("cat", "coffee", "rocket")
PRESETS: Mapping[str, Any] = {
    "default": None,
    "epsilon": "epsilon",
    "epsilon(1e-2)": fxlrp.presets.epsilon(1e-2),
    "epsilon_plus_flat": "epsilon_plus_flat",
    "epsilon_gamma_box": fxlrp.presets.epsilon_gamma_box(low=-1.0, high=1.0),
    "epsilon_alpha2_beta1": "epsilon_alpha2_beta1",
}


def images(crops: int, seed: int = 0) -> Tensor:
    """The middle of each photograph, and random crops of three quarters of its side."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name in NAMES:
        picture = PHOTOGRAPHS[name].read(SIDE * 4 // 3)
        found.append(F.interpolate(picture, (SIDE, SIDE), mode="bilinear", antialias=True))
        for _ in range(crops):
            top, left = torch.randint(0, picture.shape[-1] - SIDE + 1, (2,), generator=generator).tolist()
            found.append(picture[..., top : top + SIDE, left : left + SIDE])
    return normalized(torch.cat(found))


def flip(pictures: Tensor, region: int, steps: int) -> Flipping:
    """Flip the regions of the pictures in the order of each preset; the likeliest class of each is explained."""
    network = load_network().requires_grad_(False)
    with torch.no_grad():
        classes = [int(each) for each in network(pictures).argmax(1)]
    explanations = {name: fxlrp.compile(network, rules) for name, rules in PRESETS.items()}
    return pixel_flipping(network, pictures, explanations, target=classes, region=region, replace="blur", steps=steps)


def table(result: Flipping) -> str:
    """A row for each order: the mean areas, each with the standard error over the images, and wins over the default."""
    rows = ["| order | MoRF area | LeRF area | SRG | better than the default |", "| --- | ---: | ---: | ---: | ---: |"]
    default = result["default"].srg
    for name in result.curves:
        curves = result[name]
        numbers = " | ".join(_with_error(each) for each in (curves.morf_area, curves.lerf_area, curves.srg))
        wins = "" if name == "default" else f"{int((curves.srg > default).sum())} of {len(default)}"
        rows.append(f"| {name} | {numbers} | {wins} |")
    return "\n".join(rows)


def _with_error(values: Tensor) -> str:
    return f"{float(values.mean()):.2f} ± {float(values.std() / len(values) ** 0.5):.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photographs", description=__doc__)
    parser.add_argument("--crops", type=int, default=5, help="random crops of each photograph")
    parser.add_argument("--region", type=int, default=16, help="the side of the regions, in pixels")
    parser.add_argument("--steps", type=int, default=14)
    options = parser.parse_args(arguments)
    print(table(flip(images(options.crops), options.region, options.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

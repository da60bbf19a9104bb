"""Draw the pictures of docs/gallery.md and of the front page: python docs/make_gallery.py, with the demo's extra.

Each picture is the heatmap of a photograph and its overlay, by one choice of rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxlrp
from fxlrp import presets, rules, show
from fxlrp.demo import __main__ as demo
from fxlrp.demo.network import SIDE, load_network, normalized
from fxlrp.demo.photographs import photograph
from fxlrp.extras import require

FOLDER = Path(__file__).parent
GALLERY = FOLDER / "gallery"
PHOTOGRAPH = "cat"


def everywhere(rule: rules.Rule) -> Any:
    """A rule for convolutions, with epsilon elsewhere."""
    return presets.epsilon().override([("conv2d", rule)])


def first_layer(rule: rules.Rule) -> Any:
    """A rule for the first convolution, with z+ for the others."""
    return presets.epsilon_plus().override([("_conv_stem", rule)])


CHOICES: Mapping[str, Any] = {
    "epsilon_0": everywhere(rules.Epsilon(0)),
    "epsilon": "epsilon",
    "epsilon_large": everywhere(rules.Epsilon(1.0)),
    "zplus": "epsilon_plus",
    "alpha2_beta1": "epsilon_alpha2_beta1",
    "gamma": everywhere(rules.Gamma(0.25)),
    "flat": "epsilon_plus_flat",
    "wsquare": first_layer(rules.WSquare()),
    "zbox": presets.epsilon_gamma_box(low=-1.0, high=1.0),
    "alpha2_beta1_flat": "epsilon_alpha2_beta1_flat",
    "excitation_backprop": "excitation_backprop",
    "gradient": "gradient",
    "guided_backprop": "guided_backprop",
    "deconvnet": "deconvnet",
    "beta_smooth": "beta_smooth",
}
"""The name of each picture, and its rules."""


def with_relu(network: nn.Module) -> nn.Module:
    """Replace ReLU6 by ReLU, which the presets for modified gradients are about."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU().eval())
    return network


def beside(left: Any, right: Any) -> Any:
    """Two images of pillow beside each other."""
    both = require("PIL.Image", "demo").new("RGB", (left.width + right.width + 8, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 8, 0))
    return both


def draw(name: str, image: Tensor, relevance: Tensor) -> None:
    """Write the picture of a choice of rules."""
    picture = beside(show.heatmap(relevance).image, show.overlay(image, relevance).image)
    picture.save(GALLERY / f"{name}.jpg", quality=85, optimize=True)


def main() -> None:
    """Draw all pictures."""
    GALLERY.mkdir(exist_ok=True)
    image = photograph(PHOTOGRAPH).read(SIDE)
    x = normalized(image)
    network, modified = load_network(), with_relu(load_network())
    with torch.inference_mode():
        logit, target = (each.item() for each in network(x)[0].max(0))
    print(f"the class with ReLU6 is {target}, and with ReLU {int(modified(x).argmax())}")
    for name, chosen in CHOICES.items():
        starts_with_one = isinstance(chosen, str) and demo.preset(chosen).starts_with_one
        explain = fxlrp.compile(modified if starts_with_one else network, rules=chosen, example_inputs=x)
        relevance = explain(x, target=target)
        draw(name, image, relevance)
        print(f"{name:20} {float(relevance.sum() / logit):+.2%} of the logit at the pixels")

    demo.main(["--output", str(FOLDER / "photo.png")])
    photo = require("PIL.Image", "demo").open(FOLDER / "photo.png").convert("RGB")
    width = 1000
    photo.resize((width, photo.height * width // photo.width)).save(FOLDER / "photo.jpg", quality=85, optimize=True)
    (FOLDER / "photo.png").unlink()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()

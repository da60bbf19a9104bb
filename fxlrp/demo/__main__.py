"""`python -m fxlrp.demo`: train a network on handwritten digits, compile it, and plot its relevance."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn.functional import one_hot

import fxlrp
from fxlrp.demo.digits import EPOCHS, accuracy, load_digits, trained
from fxlrp.demo.heatmap import save_heatmaps

DEFAULT_RULES = "epsilon, gamma on convolutions"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; None means the arguments of the process."""
    parser = argparse.ArgumentParser(prog="python -m fxlrp.demo", description=__doc__)
    parser.add_argument("--rules", metavar="PRESET", help=f"name of a preset (default: {DEFAULT_RULES})")
    parser.add_argument("--output", type=Path, default="digits.png", help="path of the PNG (default: %(default)s)")
    parser.add_argument("--count", type=int, default=20, help="number of digits to explain (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="number of training epochs (default: %(default)s)")
    parser.add_argument("--retrain", action="store_true", help="train again, even if trained weights are cached")
    options = parser.parse_args(arguments)
    for name in ("count", "epochs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    options.output = Path(options.output)
    if options.output.suffix != ".png" or not options.output.parent.is_dir():
        parser.error(f"--output must be a .png file in a folder that exists, not {options.output}")
    return options


def choose_rules(preset: str | None) -> Any:
    """The rules for `fxlrp.compile`: by default a preset and one pair that takes precedence over it."""
    if preset is None:
        return fxlrp.presets.epsilon().override([("conv2d", fxlrp.rules.Gamma(0.25))])
    if preset == "epsilon_gamma_box":  # needs the range of the pixels: 0 is paper, 1 is ink
        return fxlrp.presets.epsilon_gamma_box(low=0.0, high=1.0)
    return preset


def in_turn(labels: Tensor) -> Tensor:
    """The order with the first sample of every class, then the second sample of every class, and so on."""
    turn = one_hot(labels).cumsum(0).gather(1, labels[:, None]).squeeze(1)
    return (turn * (int(labels.max()) + 1) + labels).argsort()


def conservation(relevance: Tensor, logits: Tensor, predicted: Tensor, labels: Tensor) -> str:
    """Return the share of each explained logit that reached the pixels, as text."""
    explained = logits.gather(1, predicted[:, None]).squeeze(1)
    arrived = relevance.flatten(1).sum(1)
    share = arrived / explained
    table = tabulate(
        torch.stack([labels, predicted, explained, arrived, 100 * share], 1).tolist(),
        headers=("digit", "predicted", "logit", "relevance at the pixels", "share in %"),
        floatfmt=("g", "g", ".4f", ".4f", ".1f"),
    )
    return (
        f"{table}\n\nReached the pixels: {share.mean():.1%} of the logit on average "
        f"({share.min():.1%} to {share.max():.1%}); biases and stabilizers absorb the rest."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = parse(arguments)
    try:
        digits = load_digits()
        model, cached = trained(digits, epochs=options.epochs, retrain=options.retrain)
        origin = f"loaded from {cached}" if cached else "trained now"
        share = accuracy(model, digits.test_images, digits.test_labels)
        print(f"Residual network, {origin}: {share:.1%} of {len(digits.test_labels)} test digits correct.\n")

        explain = fxlrp.compile(model, rules=choose_rules(options.rules))
    except (fxlrp.errors.FxlrpError, ImportError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1

    chosen = in_turn(digits.test_labels)[: options.count]
    images, labels = digits.test_images[chosen], digits.test_labels[chosen]
    with torch.inference_mode():
        logits = model(images)
        predicted = logits.argmax(1)
        relevance = explain(images, target=predicted)

    print(explain)
    print()
    print(conservation(relevance, logits, predicted, labels))

    wrong = (predicted != labels).tolist()
    titles = [
        f"{guess} (is {label})" if mistaken else str(guess)
        for guess, label, mistaken in zip(predicted.tolist(), labels.tolist(), wrong, strict=True)
    ]
    heading = f"Relevance of every pixel for the predicted digit ({options.rules or DEFAULT_RULES})"
    save_heatmaps(options.output, images, relevance, titles, heading=heading, wrong=wrong, columns=5)
    print(f"\nThe picture is {options.output}: digits beside the relevance of their pixels.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

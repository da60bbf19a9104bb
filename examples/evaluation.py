"""Compare explanations of a residual network for handwritten digits by pixel flipping.

Run it from the repository with the demo's extra installed: python examples/evaluation.py. It prints a table and writes
evaluation.png.
"""

import fxlrp
from fxlrp.demo.digits import DigitNet, Digits, load_digits, trained
from fxlrp.evaluate import Flipping, pixel_flipping
from fxlrp.rules.presets import Rules

RULES: dict[str, Rules] = {
    "epsilon_plus": "epsilon_plus",
    "gamma": [("conv2d", fxlrp.rules.Gamma(0.25))],
    "epsilon": "epsilon",
    "guided_backprop": "guided_backprop",
}


def evaluated(model: DigitNet, digits: Digits, *, count: int = 360) -> Flipping:
    """Pixel flipping of test images, with the paper as the replacement."""
    explanations = {name: fxlrp.compile(model, rules) for name, rules in RULES.items()}
    images, labels = digits.test_images[:count], digits.test_labels[:count]
    # 0 is paper. Squares of 2 x 2 pixels are 16 regions.
    return pixel_flipping(model, images, explanations, target=labels, region=2, replace="zero", batch_size=512)


def main() -> None:
    """Print the table, and write the curves."""
    digits = load_digits()
    model, _ = trained(digits)
    result = evaluated(model, digits)
    print(result.table())
    result.picture().save("evaluation.png")


if __name__ == "__main__":
    main()

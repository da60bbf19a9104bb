"""Prune a network that reads handwritten digits: by the relevance of its weights, and by their magnitude.

A weight that passes little relevance on a few reference images contributes little to what the network says about them
(Yeom et al., 2021; Becking et al., 2021). Single weights and whole filters are removed, without training afterwards.
Run it from the repository with the demo's extra installed: python examples/pruning.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

import fxlrp
from fxlrp.demo.digits import DigitNet, Digits, accuracy, load_digits, trained
from fxlrp.extras import require

Scores = Mapping[str, Tensor]

SAMPLES_PER_CLASS = 10
SPARSITIES = [0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95]


def references(digits: Digits) -> tuple[Tensor, Tensor]:
    """The first training images of each class, and their labels."""
    rows = torch.cat([(digits.train_labels == digit).nonzero()[:SAMPLES_PER_CLASS, 0] for digit in range(10)])
    return digits.train_images[rows], digits.train_labels[rows]


def by_relevance(model: nn.Module, names: Sequence[str], images: Tensor, labels: Tensor) -> Scores:
    """The absolute relevance of every weight for the true class, summed over the images."""
    explain = fxlrp.compile(model, "epsilon", at=names)
    scores = {name: torch.zeros_like(model.get_parameter(name)) for name in names}
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        for name, relevance in explain(image, target=label).items():
            scores[name] += relevance.abs()
    return scores


def by_magnitude(model: nn.Module, names: Sequence[str]) -> Scores:
    """The absolute value of every weight."""
    return {name: model.get_parameter(name).abs() for name in names}


def without_weights(model: nn.Module, scores: Scores, sparsity: float) -> nn.Module:
    """A copy of the model in which the weights with the lowest scores are zero."""
    pruned, threshold = copy.deepcopy(model), torch.cat([each.flatten() for each in scores.values()]).quantile(sparsity)
    for name, score in scores.items():
        pruned.get_parameter(name)[score < threshold] = 0
    return pruned


def of_filters(scores: Scores, *, scaled: bool) -> Scores:
    """The sum of the scores in each filter; scaled to the same norm in each layer, if layers are not comparable."""
    sums = {name: score.flatten(1).sum(1) for name, score in scores.items()}
    return {name: each / each.norm() if scaled else each for name, each in sums.items()}


def without_filters(model: nn.Module, scores: Scores, sparsity: float) -> nn.Module:
    """A copy of the model in which the filters with the lowest scores are zero, with their BatchNorm."""
    pruned, threshold = copy.deepcopy(model), torch.cat([*scores.values()]).quantile(sparsity)
    for name, score in scores.items():
        norm = pruned.get_submodule(norm_of(name))
        for parameter in (pruned.get_parameter(name), *norm.parameters()):
            parameter[score < threshold] = 0
    return pruned


def norm_of(name: str) -> str:
    """The path of the BatchNorm behind a convolution, by the name of its weight."""
    return "stem.1" if name == "stem.0.weight" else name.replace("conv", "bn").removesuffix(".weight")


def save_plot(path: str, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw accuracy against sparsity: a picture for each kind of pruning, a line for each score."""
    figure = require("matplotlib.figure", "demo").Figure(figsize=(9, 3.6), dpi=160, layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        for label, accuracies in lines.items():
            axes.plot([100 * each for each in SPARSITIES], [100 * each for each in accuracies], marker="o", label=label)
        axes.set(title=title, xlabel="removed (%)", ylabel="test accuracy (%)", ylim=(0, 102))
        axes.label_outer()
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


@torch.no_grad()
def compare(model: DigitNet, digits: Digits) -> dict[str, dict[str, list[float]]]:
    """The test accuracy at every sparsity, by what is removed and by which score."""
    names = [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    filters = [name for name in names if "conv" in name or name == "stem.0.weight"]
    magnitude, relevance = by_magnitude(model, names), by_relevance(model, names, *references(digits))

    def curve(prune: Callable[[nn.Module, Scores, float], nn.Module], scores: Scores) -> list[float]:
        return [accuracy(prune(model, scores, each), digits.test_images, digits.test_labels) for each in SPARSITIES]

    curves: dict[str, dict[str, list[float]]] = {"weights": {}, "filters": {}}
    for label, scores in {"magnitude": magnitude, "relevance": relevance}.items():
        curves["weights"][label] = curve(without_weights, scores)
        # Every layer passes on the same relevance, but the magnitudes of layers differ.
        of_layers = of_filters({name: scores[name] for name in filters}, scaled=label == "magnitude")
        curves["filters"][label] = curve(without_filters, of_layers)
    return curves


def main() -> None:
    digits = load_digits()
    model, _ = trained(digits)
    curves = compare(model, digits)
    for kind, lines in curves.items():
        print(f"{kind} removed  " + "  ".join(f"{each:5.0%}" for each in SPARSITIES))
        for label, accuracies in lines.items():
            print(f"by {label:12}  " + "  ".join(f"{each:5.1%}" for each in accuracies))
    save_plot("pruning.png", curves)


if __name__ == "__main__":
    main()

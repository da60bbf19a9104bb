"""The contestants: each makes, of a subject, a call without arguments that explains its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fxlrp
from benchmarks import peers

BOX = {"low": -3.0, "high": 3.0}

PRESETS: Mapping[str, Callable[[], Any]] = {
    "epsilon": fxlrp.presets.epsilon,
    "epsilon_plus_flat": fxlrp.presets.epsilon_plus_flat,
    "epsilon_gamma_box": lambda: fxlrp.presets.epsilon_gamma_box(**BOX),
    "epsilon_alpha2_beta1_flat": fxlrp.presets.epsilon_alpha2_beta1_flat,
}

# Ways to call torch.compile. "frozen" makes the weights constants: it no longer follows them when they change, and
# it works without autograd only.
RECIPES: Mapping[str, dict[str, Any]] = {
    "default": {},
    "contiguous": {"options": {"layout_optimization": False}},
    "frozen": {"options": {"freezing": True}},
    "cuda-graphs": {"mode": "reduce-overhead"},
    "max-autotune": {"mode": "max-autotune"},
    "aot_eager": {"backend": "aot_eager"},  # compiles no kernels: to try the suite itself
}


@dataclass(frozen=True)
class Subject:
    """What is explained: the largest logit of each image, by a preset's rules."""

    model: nn.Module
    images: Tensor
    preset: str


Explain = Callable[[], Tensor]


def rules(subject: Subject) -> Any:
    """The preset as an argument for fxlrp."""
    return PRESETS[subject.preset]()


def reference(subject: Subject) -> Tensor:
    """The relevance that every result is compared with: fxlrp without optimizations."""
    relevance = fxlrp.compile(subject.model, rules=rules(subject), optimize=False)(subject.images)
    assert isinstance(relevance, Tensor)
    return relevance


def gradient(subject: Subject, recipe: str | None = None) -> Explain:
    """The plain gradient of the largest logits: the unit in which everything is measured."""
    model = subject.model if recipe is None else torch.compile(subject.model, dynamic=False, **RECIPES[recipe])

    def explain() -> Tensor:
        x = subject.images.detach().requires_grad_()
        (result,) = torch.autograd.grad(model(x).amax(1).sum(), x)
        return result

    return explain


def relevance(subject: Subject, recipe: str | None = None) -> Explain:
    """fxlrp, as it comes or through torch.compile."""
    explainer: Any = fxlrp.compile(subject.model, rules=rules(subject))
    if recipe is not None:
        explainer = torch.compile(explainer, fullgraph=True, dynamic=False, **RECIPES[recipe])

    @torch.no_grad()
    def explain() -> Tensor:
        result: Tensor = explainer(subject.images)
        return result

    return explain


def recipe_of(name: str) -> str | None:
    """The recipe by which the contestant called ``name`` is compiled: it stands behind the library."""
    return name.partition(" ")[2] or None


def build(name: str, subject: Subject) -> Explain:
    """The contestant called ``name``."""
    library = name.partition(" ")[0]
    if library == "gradient":
        return gradient(subject, recipe_of(name))
    if library == "fxlrp":
        return relevance(subject, recipe_of(name))
    return peers.PEERS[library](subject.model, subject.images, subject.preset, BOX)

"""What explains a network: the presets of fxlrp, candidates for its default preset, other methods, and baselines."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

import fxlrp
from benchmarks.evidence.candidates import CANDIDATES
from benchmarks.evidence.samples import Half, Kind
from fxlrp.rules.preset import Preset
from fxlrp.rules.presets import PRESETS

Group = Literal["preset", "candidate", "other", "baseline"]
# These return gradients, which have no meaningful sign, and no relevance.
GRADIENTS = ("guided_backprop", "deconvnet", "beta_smooth", "saliency")
PATH = 20  # steps of integrated gradients


class NotApplicable(Exception):
    """The method has no meaning for this kind of input."""


@dataclass(frozen=True)
class Subject:
    """A network, and samples of which the outputs of the given classes are explained.

    Inputs after the first are fixed. Networks of one ``architecture`` differ in their weights only.
    """

    network: nn.Module
    inputs: tuple[Tensor, ...]
    targets: Tensor
    kind: Kind
    architecture: str
    bounds: tuple[float, float] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Method:
    """A name for tables, what kind of method it is, and the explanation."""

    name: str
    group: Group
    explain: Callable[[Subject], Tensor]

    @property
    def is_gradient(self) -> bool:
        """Whether the result is a gradient."""
        return self.name in GRADIENTS


_compiled: dict[tuple[str, str], Any] = {}


def by_fxlrp(name: str, rules: Callable[[Subject], Preset], subject: Subject) -> Tensor:
    """The relevance by some rules. What is compiled for an architecture serves all networks of it."""
    key = (name, subject.architecture)
    if key not in _compiled:
        constants = ["edges"] if subject.kind == "graph" else []
        _compiled[key] = fxlrp.compile(subject.network, rules=rules(subject), constants=constants)
    relevance: Tensor = _compiled[key].on(subject.network)(*subject.inputs, target=subject.targets)
    return relevance


def preset(name: str, subject: Subject) -> Preset:
    """A preset of fxlrp with the parameters that it needs."""
    if name != "epsilon_gamma_box":
        return PRESETS[name]()
    if subject.bounds is None:
        raise NotApplicable("the vectors of tokens have no bounds")
    return PRESETS[name](*subject.bounds)


def candidate(name: str, subject: Subject) -> Preset:
    """A candidate, which needs no parameters."""
    return CANDIDATES[name]()


def by_captum(name: str, subject: Subject) -> Tensor:
    """A method of captum with its default settings: a baseline of zeros where it has one."""
    from captum import attr

    # Its hooks stay on a network when it raises an error.
    network = copy.deepcopy(subject.network)
    method = getattr(attr, name)(network)
    options: dict[str, Any] = {"n_steps": PATH} if name == "IntegratedGradients" else {}
    first, *others = subject.inputs
    relevance: Tensor = method.attribute(
        first.detach().clone().requires_grad_(),
        target=subject.targets,
        additional_forward_args=tuple(others) or None,
        **options,
    )
    return relevance.detach()


def sobel(subject: Subject) -> Tensor:
    """The strength of the edges of an image, whatever the network."""
    if subject.kind != "image":
        raise NotApplicable("only images have edges")
    images = nn.functional.pad(subject.inputs[0].mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    edges = nn.functional.conv2d(images, torch.stack([kernel, kernel.T])[:, None])
    strength: Tensor = edges.norm(dim=1, keepdim=True)
    return strength


def chance(subject: Subject) -> Tensor:
    """Uniform noise."""
    return torch.rand(subject.inputs[0].shape, generator=torch.Generator().manual_seed(subject.seed))


OTHERS = {
    "captum LRP": "LRP",
    "integrated gradients": "IntegratedGradients",
    "gradient x input": "InputXGradient",
    "saliency": "Saliency",
    "DeepLift": "DeepLift",
}
# Not measured on the half that serves to choose: no default preset is made of them, and some take long to compile.
ONLY_REPORTED = (*GRADIENTS, "gradient", "Sobel")
METHODS: tuple[Method, ...] = (
    *(Method(name, "preset", partial(by_fxlrp, name, partial(preset, name))) for name in PRESETS),
    *(Method(name, "other", partial(by_captum, theirs)) for name, theirs in OTHERS.items()),
    Method("Sobel", "baseline", sobel),
    Method("random", "baseline", chance),
    *(
        Method(name, "candidate", partial(by_fxlrp, f"candidate {name}", partial(candidate, name)))
        for name in CANDIDATES
    ),
)


def of_half(half: Half) -> list[Method]:
    """The methods that are measured on a half."""
    if half == "report":
        return [method for method in METHODS if method.group != "candidate"]
    return [method for method in METHODS if method.name not in ONLY_REPORTED]

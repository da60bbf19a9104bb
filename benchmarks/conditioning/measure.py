"""Compares the relevance of a network in each precision with that in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import fxlrp
from benchmarks import models
from benchmarks.settings import Settings
from fxlrp.demo.network import load_network, normalized
from fxlrp.demo.photographs import PHOTOGRAPHS
from fxlrp.rules.preset import Preset

SIDE = 224
TRAINED = "efficientnet_lite0, trained"
NETWORKS = ("resnet50", "densenet121", "vgg16", "efficientnet_b0", "vit_b_16", "convnext_tiny", TRAINED)
GOAL = 1e-3
"""The largest error of the default preset in single precision."""

_BOX = {"low": -3.0, "high": 3.0}


def _default(epsilon: float) -> Preset:
    return replace(fxlrp.presets.default(), epsilon=epsilon)


PRESETS: Mapping[str, Callable[[], Preset]] = {
    "default": fxlrp.presets.default,
    "default, epsilon 1e-4": lambda: _default(1e-4),
    "default, epsilon 1e-3": lambda: _default(1e-3),
    "default, epsilon 1e-2": lambda: _default(1e-2),
    "epsilon": fxlrp.presets.epsilon,
    "epsilon(1e-4)": lambda: fxlrp.presets.epsilon(1e-4),
    "epsilon(1e-2)": lambda: fxlrp.presets.epsilon(1e-2),
    "epsilon_plus_flat": fxlrp.presets.epsilon_plus_flat,
    "epsilon_gamma_box": lambda: fxlrp.presets.epsilon_gamma_box(**_BOX),
    "epsilon_alpha2_beta1": fxlrp.presets.epsilon_alpha2_beta1,
    "attnlrp": fxlrp.presets.attnlrp,
    "gradient": fxlrp.presets.gradient,
}


@dataclass(frozen=True)
class Conditioning:
    """How far the relevance of one network under one preset is from that in double precision.

    Args:
        network: The name of the network.
        preset: The name of the preset.
        single: The relative error in float32: the norm of the difference over the norm, of the worst image.
        half: The same in bfloat16.
        cosine: The smallest cosine of the relevance of an image in bfloat16 and in double precision.
        total: The relevance of the inputs in double precision as a multiple of the explained output, of the image for
            which it is farthest from 1.
        magnitude: The sum of its absolute values, likewise, of the image for which it is largest.
    """

    network: str
    preset: str
    single: float
    half: float
    cosine: float
    total: float
    magnitude: float


@dataclass(frozen=True)
class Subject:
    """A network in each precision, images, and the classes that are explained."""

    name: str
    network: nn.Module
    wide: nn.Module
    half: nn.Module
    images: Tensor
    classes: list[int]

    @staticmethod
    def of(name: str, network: nn.Module, images: Tensor) -> Subject:
        """The subject for a network in float32; the largest logits are explained."""
        wide = copy.deepcopy(network).double()
        with torch.no_grad():
            classes = [int(each) for each in wide(images.double()).argmax(1)]
        return Subject(name, network, wide, copy.deepcopy(network).bfloat16(), images, classes)


def presets_of(network: str) -> tuple[str, ...]:
    """The presets for a network: those for attention only where there is any."""
    return tuple(name for name in PRESETS if name != "attnlrp" or network.startswith("vit"))


def subject(name: str, size: int = SIDE, batch: int = 2) -> Subject:
    """A network of torchvision with the statistics of random images, or the trained one with photographs."""
    if name == TRAINED:
        images = normalized(torch.cat([PHOTOGRAPHS[each].read(SIDE) for each in ("cat", "coffee")])[:batch])
        return Subject.of(name, load_network().requires_grad_(False), images)
    settings = Settings()
    return Subject.of(name, models.build(name, size, settings), models.images(batch, size, settings))


def measure(subject: Subject, preset: str) -> Conditioning:
    """Explain the images in each precision."""
    rules = PRESETS[preset]()
    wide, output = _explain(subject.wide, rules, subject.images.double(), subject.classes)
    single, _ = _explain(subject.network, rules, subject.images, subject.classes)
    half, _ = _explain(subject.half, rules, subject.images.bfloat16(), subject.classes)
    explained = output.gather(1, torch.tensor(subject.classes)[:, None])[:, 0]
    totals, magnitudes = (each.flatten(1).sum(1) / explained for each in (wide, wide.abs()))
    return Conditioning(
        subject.name,
        preset,
        float(errors(single, wide).max()),
        float(errors(half, wide).max()),
        float(cosines(half, wide).min()),
        float(totals[(totals - 1).abs().argmax()]),
        float(magnitudes.abs().max()),
    )


def _explain(network: nn.Module, rules: Preset, images: Tensor, classes: list[int]) -> tuple[Tensor, Tensor]:
    relevance, output = fxlrp.compile(network, rules=rules)(images, target=classes, return_output=True)
    return relevance, output


def errors(relevance: Tensor, wide: Tensor) -> Tensor:
    """The norm of the difference over the norm of that in double precision, of each image."""
    difference, size = (each.flatten(1).square().sum(1).sqrt() for each in (relevance.double() - wide, wide))
    return difference / size


def cosines(relevance: Tensor, wide: Tensor) -> Tensor:
    """The cosine of both, of each image."""
    found: Tensor = torch.cosine_similarity(relevance.double().flatten(1), wide.flatten(1))
    return found

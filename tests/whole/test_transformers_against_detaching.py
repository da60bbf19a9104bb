"""Whole transformers against input times the gradient of a twin in which what the rules hold constant is detached.

The twin (`tests/support/detaching.py`) always writes attention out. The models write it in every way that models do,
with every kind of mask, and both front ends capture them.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fxlrp
from detaching import MASKS, VOCABULARY, WAYS, Style, Transformer, inputs_of, made, relevance_of
from fxlrp import presets
from fxlrp.rules.preset import Preset
from helpers import slow_ones
from oracles import assert_relevance, random

PRESETS = ("attnlrp", "cplrp", "epsilon")
DECODERS = [Style(way, mask) for way, mask in itertools.product(WAYS, MASKS) if way != "mha"]
ENCODERS = [Style(way, mask, encoder=True) for way, mask in itertools.product(("mha", "sdpa"), MASKS)]
STYLES = [style for style in (*DECODERS, *ENCODERS) if style.is_possible]
LENGTH = 6
# The masks with which every way and preset is tried. The others are tried with AttnLRP and in one call, to save time.
COMMON = ("causal", "padding")
SEED = 1000 * random(2, LENGTH, VOCABULARY, seed=3)


def rules(preset: str, epsilon: float = 1e-12) -> Preset:
    found: Preset = getattr(presets, preset)(epsilon=epsilon)
    return found


def keep_of(inputs: tuple[Tensor, ...]) -> Tensor | None:
    return inputs[1] if len(inputs) > 1 else None


def case(style: Style, preset: str, *marks: Any) -> Any:
    kind = "encoder" if style.encoder else "decoder"
    return pytest.param(style, preset, marks=marks, id=f"{kind}-{style.way}-{style.mask}-{preset}")


def check(style: Style, preset: str, capture: Any, **options: Any) -> None:
    model, inputs = made(style), inputs_of(style, LENGTH)
    expected = relevance_of(model, inputs[0], keep_of(inputs), SEED, preset)
    explain = fxlrp.compile(model, rules(preset), capture=capture, at="embedding", example_inputs=inputs, **options)
    assert explain.front_end == capture
    relevance = explain(*inputs, seed=SEED)
    assert isinstance(relevance, Tensor)
    assert_relevance(relevance, expected, 1e-6)


@pytest.mark.sampled(3, "style")
@pytest.mark.parametrize(
    "style, preset",
    [
        case(style, preset, *([] if preset == "attnlrp" else [pytest.mark.slow]))
        for style, preset in itertools.product(STYLES, PRESETS)
        if preset == "attnlrp" or style.way == "sdpa" or style.mask in COMMON
    ],
)
def test_symbolic_tracing(style: Style, preset: str) -> None:
    check(style, preset, "symbolic")


@pytest.mark.sampled(3, "style")
@pytest.mark.parametrize(
    "style, preset",
    [
        case(style, preset, *([] if (style, preset) == (Style(), "attnlrp") else [pytest.mark.slow]))
        for style, preset in itertools.product(STYLES, PRESETS)
        if (preset == "attnlrp" and style.way == "sdpa") or style.mask in COMMON
    ],
)
def test_torch_export(style: Style, preset: str) -> None:
    """One layer is enough here: each takes a second to capture."""
    check(replace(style, layers=1) if style != Style() else style, preset, "export")


@pytest.mark.parametrize("optimize", [fxlrp.Optimizations(fuse_attention=False), False], ids=["parts", "plain"])
@pytest.mark.parametrize("mask", ["all least", "additive", "no key"])
@pytest.mark.parametrize("way", ["einsum", *slow_ones("sdpa", "eager")])
def test_attention_that_is_written_out(way: str, mask: str, optimize: Any) -> None:
    check(Style(way, mask), "attnlrp", "symbolic", optimize=optimize)


@pytest.mark.parametrize("length", [1, 3, 9])
@pytest.mark.parametrize("way", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", ["causal", "offset", "padding"])
def test_other_lengths_than_that_of_the_examples(mask: str, way: str, length: int) -> None:
    style = Style(way, mask)
    model = made(style)
    explain = fxlrp.compile(model, rules("attnlrp"), at="embedding", example_inputs=inputs_of(style, LENGTH))
    inputs: tuple[Tensor, ...] = (torch.arange(3 * length).reshape(3, length) % VOCABULARY,)
    if style.takes_keep:
        inputs = (*inputs, torch.arange(length) >= torch.tensor([[0], [length // 3], [length // 2]]))
    seed = random(3, length, VOCABULARY, seed=4)
    relevance = explain(*inputs, seed=seed)
    assert isinstance(relevance, Tensor)
    assert_relevance(relevance, relevance_of(model, inputs[0], keep_of(inputs), seed, "attnlrp"), 1e-6)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("style", [Style(), Style("eager", "padding"), Style("mha", "padding", encoder=True)], ids=str)
def test_target_at_one_position(style: Style, preset: str) -> None:
    """Of the tokens, and by position and token."""
    model, inputs = made(style), inputs_of(style, LENGTH)
    explain = fxlrp.compile(model, rules(preset), example_inputs=inputs)
    positions, tokens = torch.tensor([4, 3]), torch.tensor([7, 1])

    def seed(logits: Tensor) -> Tensor:
        chosen = torch.zeros_like(logits)
        chosen[[0, 1], positions, tokens] = logits[[0, 1], positions, tokens]
        return chosen

    expected = relevance_of(model, inputs[0], keep_of(inputs), seed, preset).sum(-1)
    relevance = explain(*inputs, target=(positions, tokens))
    assert isinstance(relevance, Tensor)
    assert_relevance(relevance, expected, 1e-6)
    # The last position and its largest logit, which a language model would add.
    with torch.no_grad():
        largest = model(*inputs)[:, -1].argmax(-1)
    assert_relevance(explain(*inputs), explain(*inputs, target=(LENGTH - 1, largest)), 1e-12)
    if style.mask == "causal":
        assert (relevance[0, 5:] == 0).all() and (relevance[1, 4:] == 0).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_explanation_of_an_answer_is_the_sum_of_those_of_its_tokens(preset: str) -> None:
    """Tokens 10 to 19 are the answer; position i predicts token i + 1."""
    model, (ids,) = made(Style()), inputs_of(Style(), length=20, batch=1)
    explain = fxlrp.compile(model, rules(preset), example_inputs=(ids,))
    positions, tokens = torch.arange(9, 19), ids[0, 10:]

    def answer(logits: Tensor) -> Tensor:
        chosen = torch.zeros_like(logits)
        chosen[0, positions, tokens] = logits[0, positions, tokens]
        return chosen

    singles = [
        explain(ids, target=(int(position), int(token))) for position, token in zip(positions, tokens, strict=True)
    ]
    together = explain(ids, seed=answer)
    assert isinstance(together, Tensor)
    assert_relevance(together, torch.stack(singles).sum(0), 1e-10)
    assert_relevance(together, relevance_of(model, ids, None, answer, preset).sum(-1), 1e-6)


def gradient_times_input(model: Transformer, ids: Tensor, keep: Tensor | None, seed: Tensor) -> Tensor:
    """Of the embeddings, for the logits weighted by a seed."""
    found: list[Tensor] = []
    hook = model.embedding.register_forward_hook(lambda *call: found.append(call[-1].requires_grad_()))
    out = model(ids) if keep is None else model(ids, keep)
    hook.remove()
    (gradient,) = torch.autograd.grad((out * seed).sum(), found[0])
    return (found[0] * gradient).detach()


@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
@pytest.mark.parametrize("mask", ["causal", "additive", "no key"])
@pytest.mark.parametrize("way", ["sdpa", *slow_ones("eager", "mha")])
def test_bfloat16_is_as_close_to_float32_as_gradient_times_input(way: str, mask: str, preset: str) -> None:
    """Of 64 samples the median, because each has its own logits near zero."""
    wide = Style(way, mask, encoder=way == "mha", dtype=torch.float32)
    narrow = made(replace(wide, dtype=torch.bfloat16)).requires_grad_(False)
    inputs = inputs_of(wide, length=8, batch=64)
    seed = torch.zeros(64, 8, VOCABULARY)
    seed[:, 6, 7] = 1
    relevance, gradient = [], []
    for model in (made(wide).requires_grad_(False), narrow):
        # Both read the numbers of bfloat16, so that the difference is that of computing with them.
        model.load_state_dict({name: value.to(model.style.dtype) for name, value in narrow.state_dict().items()})
        at_target = fxlrp.compile(model, rules(preset, 1e-6), at="embedding")(*inputs, target=(6, 7))
        assert isinstance(at_target, Tensor)
        relevance.append(at_target.float())
        gradient.append(gradient_times_input(model, inputs[0], keep_of(inputs), seed.to(model.style.dtype)).float())
    assert relevance[1].isfinite().all()
    errors = [
        ((rounded - exact).flatten(1).abs().amax(1) / exact.flatten(1).abs().amax(1)).median()
        for exact, rounded in (relevance, gradient)
    ]
    assert errors[0] <= errors[1]

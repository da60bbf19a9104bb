"""The relevance of every parameter of a transformer: the parameter times its gradient in the detached twin."""

from __future__ import annotations

import pytest
import torch

from detaching import VOCABULARY, Style, inputs_of, made, twin
from fxlrp import presets
from helpers import slow_ones
from of_parameters import of_parameters
from oracles import random

STYLES = [Style("sdpa"), Style("softmax"), Style("mha", "none", encoder=True), Style("sdpa", "none", encoder=True)]


@pytest.mark.parametrize("preset", ["attnlrp", *slow_ones("cplrp", "epsilon")])
@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{'encoder' if style.encoder else 'decoder'}-{style.way}")
def test_every_parameter(style: Style, preset: str) -> None:
    model, (ids,) = made(style), inputs_of(style)
    seed = 1000 * random(2, ids.shape[1], VOCABULARY, seed=3)
    logits = twin(model, model.embedding(ids), None, preset)
    parameters = dict(model.named_parameters())
    total = (logits * (seed / logits).detach()).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), materialize_grads=True)
    wanted = {name: (p * g).detach() for (name, p), g in zip(parameters.items(), gradients, strict=True)}
    _, actual = of_parameters(model, getattr(presets, preset)(epsilon=1e-12), [ids], seed)
    # That of the bias of the keys is zero: it shifts all scores of a row.
    largest = max(float(each.abs().max()) for each in wanted.values())
    for name, relevance in wanted.items():
        torch.testing.assert_close(actual[name], relevance, rtol=1e-7, atol=1e-10 * largest, msg=name)

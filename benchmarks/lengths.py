"""Explanations of transformers over lengths: the contestants, and the record of a case."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from benchmarks import token_models
from benchmarks.explainers import Explain
from benchmarks.peers import NotOffered
from benchmarks.token_models import Attention, GatedMLP, LanguageModel, RMSNorm, Sequence
from fxlrp.extras import import_torchvision

LONG = 4096  # from here on a call takes half a minute


def gradient(sequence: Sequence) -> Explain:
    """The plain gradient of the largest logits with fused attention: the unit."""

    def explain() -> Tensor:
        x = sequence.embedded().requires_grad_()
        (result,) = torch.autograd.grad(sequence.explained(x).amax(1).sum(), x)
        return result

    return explain


def _input_times_gradient(sequence: Sequence, model: nn.Module) -> Explain:
    """The relevance of each token, by the gradient of a model that was changed for it."""

    def explain() -> Tensor:
        x = sequence.embedded().requires_grad_()
        (result,) = torch.autograd.grad(sequence.explained(x, model).amax(1).sum(), x)
        return (x.detach() * result).sum(-1)

    return explain


def relevance(sequence: Sequence, preset: str) -> Explain:
    """fxlrp as it comes, of the largest logit; for a language model of the last position."""
    explainer = fxlrp.compile(sequence.model, rules=preset, example_inputs=sequence.inputs)

    @torch.no_grad()
    def explain() -> Tensor:
        result = explainer(*sequence.inputs)
        assert isinstance(result, Tensor)
        return result

    return explain


def without_stabilizer(sequence: Sequence, preset: str) -> Explain:
    """fxlrp with an epsilon of 0, as embeddings times their coefficients: what lxt and :func:`detached` compute."""
    if not sequence.is_language_model:
        raise NotOffered("is measured on the language model")
    rules = getattr(fxlrp.presets, preset)(epsilon=0.0)
    explainer = fxlrp.compile(sequence.model, rules, example_inputs=sequence.inputs, at="embedding")

    @torch.no_grad()
    def explain() -> Tensor:
        x = sequence.embedded()
        coefficients = explainer(*sequence.inputs, coefficients=True)
        assert isinstance(coefficients, Tensor)
        return (x * coefficients).sum(-1)

    return explain


def detached(sequence: Sequence, preset: str) -> Explain:
    """Plain PyTorch: what the rules hold constant is detached, and where they share, gradients are scaled."""
    if not isinstance(sequence.model, LanguageModel) or preset not in ("attnlrp", "cplrp"):
        raise NotOffered("is written for the language model with attnlrp and cplrp")
    model, attnlrp = copy.deepcopy(sequence.model), preset == "attnlrp"

    def share(x: Tensor, part: float) -> Tensor:
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda gradient: gradient * part)
        return x

    def norm(self: RMSNorm, x: Tensor) -> Tensor:
        factor = torch.rsqrt(x.detach().pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (x * factor)

    def mlp(self: GatedMLP, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        hidden = share(gate * torch.sigmoid(gate.detach()) * up, 0.5) if attnlrp else F.silu(gate.detach()) * up
        down: Tensor = self.down_proj(hidden)
        return down

    def attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (share(q, 0.25), share(k, 0.25), share(v, 0.5)) if attnlrp else (q.detach(), k.detach(), v)
        return token_models.attend(module, q, k, v, mask)

    _replace(model, norm, mlp, attend)
    return _input_times_gradient(sequence, model)


def lxt(sequence: Sequence, preset: str) -> Explain:
    """lxt's efficient mode: its functions for Llama in place of those of the model."""
    import_torchvision()  # transformers imports it, and may not know how
    from lxt.efficient import patches

    if not isinstance(sequence.model, LanguageModel):
        raise NotOffered("is measured on the language model")
    if preset not in ("attnlrp", "cplrp"):
        raise NotOffered("has AttnLRP and CP-LRP only")
    model, attnlrp = copy.deepcopy(sequence.model), preset == "attnlrp"
    mlp = patches.gated_mlp_forward if attnlrp else patches.cp_gated_mlp_forward
    wrap = patches.wrap_attention_forward if attnlrp else patches.cp_wrap_attention_forward
    _replace(model, patches.rms_norm_forward, mlp, wrap(token_models.attend))
    return _input_times_gradient(sequence, model)


def _replace(model: nn.Module, norm: Any, mlp: Any, attend: Callable[..., Tensor]) -> None:
    """Other functions for the parts of a language model."""
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.forward = MethodType(norm, module)  # type: ignore[method-assign]
        elif isinstance(module, GatedMLP):
            module.forward = MethodType(mlp, module)  # type: ignore[method-assign]
        elif isinstance(module, Attention):
            module.attend = attend


def autolrp(sequence: Sequence, preset: str) -> Explain:
    """autolrp: its rules for transformers, from the embeddings or the image."""
    import autolrp as library

    if preset != "attnlrp":
        raise NotOffered("is measured with its rules for transformers")
    model, config = copy.deepcopy(sequence.model), library.LRPConfig(rule=dict(library.BASE), eps=1e-6)

    def explain() -> Tensor:
        x = library.tensor(sequence.embedded())
        chosen: Any = sequence.explained(x, model).amax(1)
        chosen.sum().lrp(config=config)
        found: Tensor = x.relevance * chosen.detach().abs().sum()
        return found.sum(-1) if hasattr(model, "embedding") else found

    return explain


CONTESTANTS: Mapping[str, Callable[[Sequence, str], Explain]] = {
    "gradient": lambda sequence, _: gradient(sequence),
    "fxlrp": relevance,
    "LRP-0": without_stabilizer,
    "detached": detached,
    "lxt": lxt,
    "autolrp": autolrp,
}


def rounds(length: int, repeats: int) -> int:
    """How many rounds there are at most."""
    return min(repeats, 2 if length >= LONG else 3)


def reference(sequence: Sequence, preset: str) -> Tensor | None:
    """What results are compared with: the detached model, or nothing where there is none."""
    try:
        return detached(sequence, preset)()
    except NotOffered:
        return None


def capture_seconds(sequence: Sequence, preset: str, repeats: int) -> dict[str, list[float]]:
    """The seconds of each way to capture, and those of torch.export itself for the same open sizes."""
    batch, length = (torch.export.Dim(name, min=2) for name in ("batch", "length"))
    tokens = hasattr(sequence.model, "embedding")
    shapes = tuple({0: batch, 1: length} if tokens else {0: batch} for _ in sequence.inputs)
    # torch.export takes a size of one for a constant.
    inputs = tuple(torch.cat([t, t]) if len(t) == 1 else t for t in sequence.inputs)
    calls: dict[str, Callable[[], Any]] = {
        "torch.export": lambda: torch.export.export(sequence.model, inputs, dynamic_shapes=shapes),
        "fxlrp, export": lambda: fxlrp.compile(sequence.model, preset, example_inputs=inputs, capture="export"),
        "fxlrp": lambda: fxlrp.compile(sequence.model, preset, example_inputs=inputs),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times

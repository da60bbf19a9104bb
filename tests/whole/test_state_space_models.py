"""The preset mambalrp on state-space models, against input times the gradient of a detached twin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
from detaching import multiplied, scaled
from fxlrp import presets
from fxlrp.extras import import_torchvision
from fxlrp.rules import Selective
from helpers import explained
from oracles import assert_relevance, random, randomize
from state_space import FORMS, VOCABULARY, made, relevance_of

RULES = presets.mambalrp(epsilon=1e-12)
IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
SEED = random(2, 5, VOCABULARY, seed=3)
NAMED = {"states": ["einsum"], "products": ["mul"], "pairs": ["matmul"]}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("capture", ["symbolic", "export"])
def test_selective_scan(capture: Any, form: str) -> None:
    """Symbolic tracing cannot follow a loop over time."""
    if (capture, form) == ("symbolic", "loop"):
        pytest.skip("a loop over the length of the input")
    model = made(form)
    explain = fxlrp.compile(model, RULES, capture=capture, at="embedding", example_inputs=IDS)
    relevance = explain(IDS, seed=SEED)
    assert isinstance(relevance, Tensor)
    assert_relevance(relevance, relevance_of(model, IDS, SEED), 1e-8)


@pytest.mark.parametrize("form", ["cumsum", "pairs"])
def test_one_explainer_for_every_length(form: str) -> None:
    model = made(form)
    explain = fxlrp.compile(model, RULES, at="embedding", example_inputs=IDS)
    for length in (1, 3, 9):
        ids = torch.arange(3 * length).reshape(3, length) % VOCABULARY
        seed = random(3, length, VOCABULARY, seed=length)
        relevance = explain(ids, seed=seed)
        assert isinstance(relevance, Tensor)
        assert_relevance(relevance, relevance_of(model, ids, seed), 1e-8)


def test_scan_conserves_relevance() -> None:
    """All of it reaches the tokens if nothing has a bias: what attnlrp would pass to the parameters is not lost."""
    model = made("cumsum")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("convolution.bias"):
                parameter.zero_()
    explain = fxlrp.compile(model, RULES)
    relevance = explain(IDS, target=(4, 2))
    assert isinstance(relevance, Tensor)
    torch.testing.assert_close(relevance.sum(1), model(IDS)[:, 4, 2], rtol=1e-8, atol=1e-8)


class GatedRecurrence(nn.Module):
    """That of RWKV: keys weigh values by exponentials, and the mean so far passes a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.receptance = (randomize(nn.Linear(4, 4, bias=False), i) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.key(x).exp()
        mean = (weight * self.value(x)).cumsum(1) / weight.cumsum(1)
        return self.receptance(x).sigmoid() * mean


def test_exponentials_are_weights_and_gates_receive_half() -> None:
    model, x, seed = GatedRecurrence(), random(2, 5, 4), random(2, 5, 4, seed=1)

    def twin(x: Tensor) -> Tensor:
        weight = model.key(x).exp().detach()
        mean = (weight * model.value(x)).cumsum(1) / weight.cumsum(1)
        return scaled(multiplied(torch.sigmoid, model.receptance(x)), 0.5) * scaled(mean, 0.5)

    leaf = x.clone().requires_grad_()
    out = twin(leaf)
    torch.testing.assert_close(out, model(x))
    (gradient,) = torch.autograd.grad(out, leaf, seed / out.detach())
    assert_relevance(explained(model, (x,), seed, RULES), (x * gradient).detach(), 1e-8)


class Hybrid(nn.Module):
    """Attention written out, whose weights are constants, too."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = randomize(nn.Linear(4, 12, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def test_attention_weights_are_constants() -> None:
    model, x, seed = Hybrid(), random(2, 5, 4), random(2, 5, 4, seed=1)
    found = explained(model, (x,), seed, RULES)
    assert_relevance(found, explained(model, (x,), seed, presets.cplrp(epsilon=1e-12)), 1e-10)


class LinearAttention(nn.Module):
    """Causal, and associated either way; ``signal=1`` names the values in both."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.qkv = randomize(nn.Linear(4, 12, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if self.form == "states":
            return torch.einsum("btd,btde->bte", q, torch.einsum("btd,bte->btde", k, v).cumsum(1))
        if self.form == "products":
            return (q.unsqueeze(-1) * (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(1)).sum(-2)
        return torch.matmul(torch.matmul(q, k.transpose(1, 2)).tril(), v)


@pytest.mark.parametrize("form", ["states", "products", "pairs"])
def test_signal_of_linear_attention(form: str) -> None:
    model, x, seed = LinearAttention(form), random(2, 5, 4), random(2, 5, 4, seed=1)
    leaf = x.clone().requires_grad_()
    q, k, v = model.qkv(leaf).chunk(3, -1)
    out = ((F.elu(q) + 1) @ (F.elu(k) + 1).mT).tril().detach() @ v
    torch.testing.assert_close(out, model(x))
    (gradient,) = torch.autograd.grad(out, leaf, seed / out.detach())
    named = RULES.override([(name, Selective(1e-12, signal=1)) for name in NAMED[form]])
    assert_relevance(explained(model, (x,), seed, named), (x * gradient).detach(), 1e-8)


def hugging_face(name: str, **config: Any) -> Any:
    """A small language model of transformers with random weights."""
    import_torchvision()  # transformers imports it, and may not know how
    transformers = pytest.importorskip("transformers", reason="transformers is no dependency of the tests")
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, num_hidden_layers=2, use_cache=False, **config)
    return getattr(transformers, f"{name}ForCausalLM")(made).double().eval().requires_grad_(False)


def norm(layer: Any, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + layer.variance_epsilon).detach() * layer.weight


def mamba_mixer(mixer: Any, x: Tensor) -> Tensor:
    """From the weights of transformers' Mamba."""
    x, gate = mixer.in_proj(x).chunk(2, -1)
    x = F.pad(x.transpose(1, 2), (mixer.conv_kernel_size - 1, 0))
    x = F.conv1d(x, mixer.conv1d.weight, mixer.conv1d.bias, groups=mixer.intermediate_size).transpose(1, 2)
    x = multiplied(F.silu, x)
    sizes = [mixer.time_step_rank, mixer.ssm_state_size, mixer.ssm_state_size]
    step, b, c = mixer.x_proj(x).detach().split(sizes, -1)
    dt, a = F.softplus(mixer.dt_proj(step)), -mixer.A_log.exp()
    state, outputs = torch.zeros(len(x), mixer.intermediate_size, mixer.ssm_state_size, dtype=x.dtype), []
    for t in range(x.shape[1]):
        state = (dt[:, t, :, None] * a).exp() * state + dt[:, t, :, None] * b[:, t, None, :] * x[:, t, :, None]
        outputs.append((state * c[:, t, None, :]).sum(-1) + mixer.D * x[:, t])
    mixed: Tensor = mixer.out_proj(scaled(torch.stack(outputs, 1), 0.5) * scaled(multiplied(F.silu, gate), 0.5))
    return mixed


@pytest.mark.slow
def test_mamba_of_transformers() -> None:
    """Its scan computes in single precision in part, and so does its head."""
    model = hugging_face("Mamba", hidden_size=16, state_size=4, expand=2, conv_kernel=3, time_step_rank=4)
    embedded = model.backbone.embeddings(IDS).requires_grad_()
    x = embedded
    for layer in model.backbone.layers:
        x = x + mamba_mixer(layer.mixer, norm(layer.norm, x))
    logits = model.lm_head(norm(model.backbone.norm_f, x))
    inputs = dict(input_ids=IDS, use_cache=False)
    torch.testing.assert_close(logits.float(), model(**inputs).logits, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(logits[:, 4, 2].sum(), embedded)
    explain = fxlrp.compile(model, RULES, output="logits", at="backbone.embeddings", example_inputs=inputs)
    relevance = explain(IDS, target=(4, 2))
    assert isinstance(relevance, Tensor)
    assert_relevance(relevance, (embedded * gradient).detach(), 1e-5)


def mamba2_mixer(mixer: Any, x: Tensor) -> Tensor:
    """From the weights of transformers' Mamba 2, with one group of B and C for all heads."""
    heads, size, states = mixer.num_heads, mixer.head_dim, mixer.ssm_state_size
    gate, x, step = mixer.in_proj(x).split([heads * size, heads * size + 2 * states, heads], -1)
    x = F.pad(x.transpose(1, 2), (mixer.conv_kernel_size - 1, 0))
    x = multiplied(F.silu, F.conv1d(x, mixer.conv1d.weight, mixer.conv1d.bias, groups=x.shape[1])).transpose(1, 2)
    x, b, c = x.split([heads * size, states, states], -1)
    x, b, c = x.unflatten(-1, (heads, size)), b.detach(), c.detach()
    dt, a = F.softplus(step + mixer.dt_bias).detach(), -mixer.A_log.exp()
    state, outputs = torch.zeros(len(x), heads, size, states, dtype=x.dtype), []
    for t in range(x.shape[1]):
        written = dt[:, t, :, None, None] * x[:, t, :, :, None] * b[:, t, None, None, :]
        state = (dt[:, t] * a).exp()[:, :, None, None] * state + written
        outputs.append((state * c[:, t, None, None, :]).sum(-1) + mixer.D[:, None] * x[:, t])
    y = scaled(torch.stack(outputs, 1).flatten(2), 0.5) * scaled(multiplied(F.silu, gate), 0.5)
    mixed: Tensor = mixer.out_proj(norm(mixer.norm, y))
    return mixed


@pytest.mark.slow
def test_mamba2_of_transformers() -> None:
    """Over several chunks, the last of which is not full."""
    model = hugging_face(
        "Mamba2", hidden_size=16, num_heads=4, head_dim=8, state_size=4, n_groups=1, expand=2, chunk_size=2
    )
    embedded = model.backbone.embeddings(IDS).requires_grad_()
    x = embedded
    for layer in model.backbone.layers:
        x = x + mamba2_mixer(layer.mixer, norm(layer.norm, x))
    logits = model.lm_head(norm(model.backbone.norm_f, x))
    inputs = dict(input_ids=IDS, use_cache=False)
    torch.testing.assert_close(logits.float(), model(**inputs).logits, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(logits[:, 4, 2].sum(), embedded)
    named = RULES.override([("einsum", Selective(1e-12, signal=1))])
    explain = fxlrp.compile(model, named, output="logits", at="backbone.embeddings", example_inputs=inputs)
    relevance = explain(IDS, target=(4, 2))
    assert isinstance(relevance, Tensor)
    assert_relevance(relevance, (embedded * gradient).detach(), 1e-4)

"""State-space models in plain PyTorch, and the twin whose input times gradient is their relevance by MambaLRP.

The twin computes the values of the model from its weights, step by step. In it the parameters of the scan (the time
step and the matrices A, B and C) and the statistics of the norms are detached, an activation is a multiplication by a
constant, and the factors of a gate get half the gradient each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detaching import multiplied, scaled
from oracles import randomize

VOCABULARY, WIDTH, INNER, STATE, RANK = 11, 6, 8, 3, 2

# How the scan is written: a loop over time, cumulative sums, or products of matrices over pairs of positions.
FORMS = ("loop", "cumsum", "pairs")


class SelectiveScan(nn.Module):
    """``h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t`` and ``y_t = C_t h_t + D x_t``, with dt, B and C computed from x."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.parameters_of = nn.Linear(INNER, RANK + 2 * STATE, bias=False)
        self.step = nn.Linear(RANK, INNER)
        self.A_log, self.D = nn.Parameter(torch.zeros(INNER, STATE)), nn.Parameter(torch.ones(INNER))

    def forward(self, x: Tensor) -> Tensor:
        step, b, c = self.parameters_of(x).split([RANK, STATE, STATE], -1)
        dt = F.softplus(self.step(step))
        log_decay = dt.unsqueeze(-1) * -torch.exp(self.A_log)
        written = dt.unsqueeze(-1) * b.unsqueeze(2) * x.unsqueeze(-1)
        return getattr(self, f"_{self.form}")(x, log_decay, written, b, c, dt) + x * self.D

    def _loop(self, x: Tensor, log_decay: Tensor, written: Tensor, b: Tensor, c: Tensor, dt: Tensor) -> Tensor:
        decay, state, outputs = log_decay.exp(), x.new_zeros(x.shape[0], INNER, STATE), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + written[:, t]
            outputs.append(torch.matmul(state, c[:, t].unsqueeze(-1)).squeeze(-1))
        return torch.stack(outputs, 1)

    def _cumsum(self, x: Tensor, log_decay: Tensor, written: Tensor, b: Tensor, c: Tensor, dt: Tensor) -> Tensor:
        """Of everything divided by the decay so far."""
        total = log_decay.cumsum(1).exp()
        states = (written / total).cumsum(1) * total
        return (states * c.unsqueeze(2)).sum(-1)

    def _pairs(self, x: Tensor, log_decay: Tensor, written: Tensor, b: Tensor, c: Tensor, dt: Tensor) -> Tensor:
        """``y_t`` is the sum over s of ``sum_n C_tn exp(decay from s to t)_n B_sn dt_s`` times ``x_s``."""
        total = log_decay.cumsum(1)
        between = (total.unsqueeze(2) - total.unsqueeze(1)).exp()
        weights = torch.einsum("btn,btsdn,bsn->bdts", c, between, b) * dt.transpose(1, 2).unsqueeze(2)
        return torch.matmul(weights.tril(), x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)


class Mixer(nn.Module):
    """That of Mamba: a causal convolution, the scan and a gate."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(WIDTH, 2 * INNER, bias=False), nn.Linear(INNER, WIDTH, bias=False)
        self.convolution = nn.Conv1d(INNER, INNER, 3, padding=2, groups=INNER)
        self.scan = SelectiveScan(form)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        x, gate = self.enter(x).chunk(2, -1)
        x = F.silu(self.convolution(x.transpose(1, 2))[:, :, :length].transpose(1, 2))
        return self.leave(self.scan(x) * F.silu(gate))


class StateSpaceModel(nn.Module):
    """A language model: tokens to logits at every position."""

    def __init__(self, form: str, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH, eps=1e-5) for _ in range(layers + 1))
        self.mixers = nn.ModuleList(Mixer(form) for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for index, mixer in enumerate(self.mixers):
            x = x + mixer(self.norms[index](x))
        return self.head(self.norms[-1](x))


def made(form: str, seed: int = 0) -> StateSpaceModel:
    return randomize(StateSpaceModel(form), seed)


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.RMSNorm)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5).detach() * norm.weight


def _mixed(mixer: Mixer, x: Tensor) -> Tensor:
    scan = mixer.scan
    x, gate = mixer.enter(x).chunk(2, -1)
    padded = F.pad(x.transpose(1, 2), (2, 0))
    x = F.conv1d(padded, mixer.convolution.weight, mixer.convolution.bias, groups=INNER).transpose(1, 2)
    x = multiplied(F.silu, x)
    step, b, c = scan.parameters_of(x).detach().split([RANK, STATE, STATE], -1)
    dt = F.softplus(scan.step(step)).detach()
    state, outputs = torch.zeros(len(x), INNER, STATE, dtype=x.dtype), []
    for t in range(x.shape[1]):
        decay = torch.exp(-dt[:, t, :, None] * scan.A_log.exp()).detach()
        state = decay * state + (dt[:, t, :, None] * b[:, t, None, :]) * x[:, t, :, None]
        outputs.append((state * c[:, t, None, :]).sum(-1) + scan.D * x[:, t])
    y = torch.stack(outputs, 1)
    mixed: Tensor = mixer.leave(scaled(y, 0.5) * scaled(multiplied(F.silu, gate), 0.5))
    return mixed


def relevance_of(model: StateSpaceModel, ids: Tensor, seed: Tensor) -> Tensor:
    """The relevance of every feature of every token, if the twin computes what the model does."""
    embedded = model.embedding(ids).detach().requires_grad_()
    x = embedded
    for norm, mixer in zip(model.norms, model.mixers, strict=False):
        assert isinstance(mixer, Mixer)
        x = x + _mixed(mixer, _normed(norm, x))
    logits = model.head(_normed(model.norms[-1], x))
    torch.testing.assert_close(logits, model(ids), rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(logits, embedded, seed / logits.detach())
    return (embedded * gradient).detach()

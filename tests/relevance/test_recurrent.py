"""LSTM, GRU and RNN against the closed forms of Arras et al. (2019), in float64.

Gates are weights, a state shares its relevance by the epsilon rule, and the layers are explained step by step in
`transformer_oracles`, whose second source is input times gradient of a surrogate with the gates detached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxlrp
import transformer_oracles as oracle
from fxlrp.errors import InputError
from fxlrp.rules.preset import Preset
from helpers import FRONT_ENDS, as_tuple, assert_close, explained, slow_ones
from oracles import random, randomize, stabilize
from transformer_oracles import add, linear, recurrent

T, B, D, H = 4, 2, 3, 5
KINDS: dict[str, Callable[..., nn.RNNBase]] = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "RNN": nn.RNN,
    "relu RNN": lambda *args, **options: nn.RNN(*args, nonlinearity="relu", **options),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "two layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "two bidirectional layers": {"num_layers": 2, "bidirectional": True},
    "dropout": {"num_layers": 2, "dropout": 0.5},
}
X = random(T, B, D, seed=1)


def made(kind: str, **options: Any) -> nn.RNNBase:
    module = randomize(KINDS[kind](D, H, **options), 1)
    assert isinstance(module, nn.RNNBase)
    return module


def zeros(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(t) for t in tensors)


def states_of(module: nn.RNNBase, seed: int = 7) -> tuple[Tensor, ...]:
    """Initial states: h, and for an LSTM c."""
    rows = module.num_layers * (2 if module.bidirectional else 1)
    h = random(rows, B, module.proj_size or H, seed=seed)
    return (h, random(rows, B, H, seed=seed + 1)) if isinstance(module, nn.LSTM) else (h,)


class Outputs(nn.Module):
    """A recurrent layer of which only the output is returned."""

    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[0]


class WithStates(nn.Module):
    """Initial states are inputs; `wanted` is what is returned: the output, h or c."""

    def __init__(self, module: nn.RNNBase, wanted: int) -> None:
        super().__init__()
        self.module, self.wanted = module, wanted

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        output, last = self.module(x, h)
        return (output, last)[self.wanted]


class WithTwoStates(WithStates):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:  # type: ignore[override]
        output, (last_h, last_c) = self.module(x, (h, c))
        return (output, last_h, last_c)[self.wanted]


# The formulas have a second source


def surrogate(module: nn.RNNBase, x: Tensor, h: Tensor, c: Tensor | None) -> Tensor:
    """One layer and direction, gates detached and tanh as a multiplication by what it multiplied by."""
    w, outputs = oracle.weights_of(module, "l0"), []
    for x_t in x:
        if isinstance(module, nn.LSTM):
            i, f, g, o = (x_t @ w["ih"].T + h @ w["hh"].T + w["bias"]).chunk(4, -1)
            c = f.sigmoid().detach() * c + i.sigmoid().detach() * oracle.passed(torch.tanh, g)
            h = o.sigmoid().detach() * oracle.passed(torch.tanh, c)
            h = h @ w["hr"].T if "hr" in w else h
        elif isinstance(module, nn.GRU):
            x_r, x_z, x_n = (x_t @ w["ih"].T + w["b_ih"]).chunk(3, -1)
            h_r, h_z, h_n = (h @ w["hh"].T + w["b_hh"]).chunk(3, -1)
            r, z = (x_r + h_r).sigmoid().detach(), (x_z + h_z).sigmoid().detach()
            h = (1 - z) * oracle.passed(torch.tanh, x_n + r * h_n) + z * h
        else:
            h = oracle.passed(torch.tanh, x_t @ w["ih"].T + h @ w["hh"].T + w["bias"])
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize("kind", ["LSTM", "projected LSTM", "GRU", "RNN"])
def test_formulas_are_input_times_gradient(kind: str) -> None:
    module = made("LSTM", proj_size=2) if kind == "projected LSTM" else made(kind)
    states = states_of(module)
    (output, ends), back = recurrent(module, X, states, epsilon=0.0)
    expected_output, expected_ends = module(X, states if len(states) == 2 else states[0])
    torch.testing.assert_close((output, *ends), tuple(t.detach() for t in (expected_output, *as_tuple(expected_ends))))
    seed = random(*output.shape, seed=3)
    at_x, at_states = back(seed, zeros(ends))
    expected = oracle.input_times_gradient(
        lambda x, h, *c: surrogate(module, x, h[0], c[0][0] if c else None), (X, *states), seed
    )
    torch.testing.assert_close((at_x, *at_states), expected, rtol=1e-8, atol=1e-9)


# Layers


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_output(kind: str, variant: str) -> None:
    """All steps of the output at once; the zeros that the states start from receive nothing."""
    module = made(kind, **VARIANTS[variant])
    (output, ends), back = recurrent(module, X)
    torch.testing.assert_close(output, module(X)[0].detach())
    seed = random(*output.shape, seed=3)
    assert_close(explained(Outputs(module), (X,), seed), back(seed, zeros(ends))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_batch_first(kind: str) -> None:
    module = made(kind, batch_first=True, bidirectional=True)
    (output, ends), back = recurrent(module, X)
    seed = random(*output.shape, seed=3)
    found = explained(Outputs(module), (X.transpose(0, 1),), seed.transpose(0, 1))
    assert_close(found, back(seed, zeros(ends))[0].transpose(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_both_front_ends(kind: str, capture: str) -> None:
    module = made(kind, batch_first=True, num_layers=2)
    (output, ends), back = recurrent(module, X)
    seed = random(*output.shape, seed=3)
    found = explained(Outputs(module), (X.transpose(0, 1),), seed.transpose(0, 1), capture=capture)
    assert_close(found, back(seed, zeros(ends))[0].transpose(0, 1))


@pytest.mark.parametrize("variant", ["plain", "two bidirectional layers"])
@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_projected_lstm(variant: str, capture: str) -> None:
    """proj_size: the hidden state is a linear map of o tanh(c), by the epsilon rule."""
    module = made("LSTM", proj_size=2, **VARIANTS[variant])
    (output, ends), back = recurrent(module, X)
    torch.testing.assert_close(output, module(X)[0].detach())
    seed = random(*output.shape, seed=3)
    assert_close(explained(Outputs(module), (X,), seed, capture=capture), back(seed, zeros(ends))[0])


@pytest.mark.parametrize("wanted", [0, 1], ids=["output", "last state"])
@pytest.mark.parametrize("variant", ["plain", "two bidirectional layers"])
@pytest.mark.parametrize("kind", ["GRU", "RNN", "relu RNN"])
def test_initial_state_is_an_input(kind: str, variant: str, wanted: int) -> None:
    module = made(kind, **VARIANTS[variant])
    states = states_of(module)
    (output, ends), back = recurrent(module, X, states)
    seeds = list(zeros((output, *ends)))
    seeds[wanted] = random(*seeds[wanted].shape, seed=3)
    at_x, at_states = back(seeds[0], tuple(seeds[1:]))
    assert_close(explained(WithStates(module, wanted), (X, *states), seeds[wanted]), (at_x, *at_states))


@pytest.mark.parametrize("wanted", [0, 1, 2], ids=["output", "h", "c"])
@pytest.mark.parametrize("variant", ["plain", "two bidirectional layers", "projected"])
def test_initial_states_of_an_lstm_are_inputs(variant: str, wanted: int) -> None:
    module = made("LSTM", proj_size=2) if variant == "projected" else made("LSTM", **VARIANTS[variant])
    states = states_of(module)
    (output, ends), back = recurrent(module, X, states)
    seeds = list(zeros((output, *ends)))
    seeds[wanted] = random(*seeds[wanted].shape, seed=3)
    at_x, at_states = back(seeds[0], tuple(seeds[1:]))
    assert_close(explained(WithTwoStates(module, wanted), (X, *states), seeds[wanted]), (at_x, *at_states))


@pytest.mark.parametrize("capture", FRONT_ENDS)
def test_initial_states_through_both_front_ends(capture: str) -> None:
    module = made("LSTM", num_layers=2)
    states = states_of(module)
    (output, ends), back = recurrent(module, X, states)
    seed = random(*output.shape, seed=3)
    at_x, at_states = back(seed, zeros(ends))
    assert_close(explained(WithTwoStates(module, 0), (X, *states), seed, capture=capture), (at_x, *at_states))


@pytest.mark.parametrize("output", [0, (1, 0), (1, 1)], ids=str)
def test_output_of_an_lstm_is_chosen(output: Any) -> None:
    """The layer itself is the model."""
    module = made("LSTM", bidirectional=True)
    (sequence, ends), back = recurrent(module, X)
    seeds = list(zeros((sequence, *ends)))
    which = 0 if output == 0 else 1 + output[1]
    seeds[which] = random(*seeds[which].shape, seed=3)
    expected = back(seeds[0], tuple(seeds[1:]))[0]
    assert_close(explained(module, (X,), seeds[which], output=output), expected)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_output_is_chosen(kind: str, output: int) -> None:
    module = made(kind, num_layers=2)
    (sequence, ends), back = recurrent(module, X)
    seeds = list(zeros((sequence, *ends)))
    seeds[output] = random(*seeds[output].shape, seed=3)
    assert_close(explained(module, (X,), seeds[output], output=output), back(seeds[0], tuple(seeds[1:]))[0])


@pytest.mark.parametrize("kind", KINDS)
def test_one_step(kind: str) -> None:
    module = made(kind)
    (output, ends), back = recurrent(module, X[:1])
    seed = random(*output.shape, seed=3)
    assert_close(explained(Outputs(module), (X[:1],), seed), back(seed, zeros(ends))[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("capture", ["auto", "symbolic", "export"])
def test_other_lengths_and_batches(kind: str, capture: Any) -> None:
    """One explainer for inputs of every batch size and, by symbolic tracing, of every length."""
    module = made(kind, batch_first=True)
    explain = fxlrp.compile(Outputs(module).eval(), rules="epsilon", capture=capture)
    for batch, length in ((2, 4), (3, 4 if capture == "export" else 6)):
        x = random(length, batch, D, seed=5)
        (output, ends), back = recurrent(module, x)
        seed = random(*output.shape, seed=3)
        found = explain(x.transpose(0, 1), seed=seed.transpose(0, 1))
        assert_close(found, back(seed, zeros(ends))[0].transpose(0, 1))


@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_input_without_a_batch_is_explained_or_refused(kind: str, capture: str) -> None:
    module, x = made(kind), X[:, :1]
    (output, ends), back = recurrent(module, x)
    seed = random(*output.shape, seed=3)
    try:
        found = explained(Outputs(module), (x[:, 0],), seed[:, 0], capture=capture)
    except InputError as error:
        assert "batch dimension" in str(error)
        return
    assert_close(found, back(seed, zeros(ends))[0][:, 0])


@pytest.mark.parametrize("preset", ["epsilon", "attnlrp", "cplrp", None])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_presets_agree_on_recurrent_layers(kind: str, preset: str | None) -> None:
    """Gates of recurrent layers are weights in each of them."""
    module = made(kind)
    (output, ends), back = recurrent(module, X)
    seed = random(*output.shape, seed=3)
    assert_close(explained(Outputs(module), (X,), seed, rules=preset), back(seed, zeros(ends))[0])


def test_float32() -> None:
    module = made("LSTM", num_layers=2)
    (output, ends), back = recurrent(module, X)
    seed = random(*output.shape, seed=3)
    expected = back(seed, zeros(ends))[0].float()
    found = explained(Outputs(module.float()), (X.float(),), seed.float())
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max()))


# Models


class Classifier(nn.Module):
    """Token embedding, a recurrent layer, the last step or state, a linear layer."""

    def __init__(self, kind: str, pooled: str) -> None:
        super().__init__()
        self.pooled = pooled
        self.token = randomize(nn.Embedding(6, D), 2)
        self.module = made(kind, batch_first=True, bidirectional=pooled == "both ends")
        self.head = randomize(nn.Linear(2 * H if pooled == "both ends" else H, 3), 3)

    def forward(self, ids: Tensor) -> Tensor:
        output, last = self.module(self.token(ids))
        last = last[0] if isinstance(self.module, nn.LSTM) else last
        if self.pooled == "last step":
            return self.head(output[:, -1])
        if self.pooled == "last state":
            return self.head(last[-1])
        if self.pooled == "squeezed":
            return self.head(last.squeeze(0))
        return self.head(torch.cat([last[-2], last[-1]], dim=1))


@pytest.mark.slow
@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("pooled", ["last step", "last state", "squeezed", "both ends"])
@pytest.mark.parametrize("kind", ["LSTM", *slow_ones("GRU")])
def test_classifier_of_tokens(kind: str, pooled: str, capture: Any) -> None:
    """One relevance for each token, of class 1."""
    model: Any = Classifier(kind, pooled).eval()
    ids = torch.tensor([[3, 1, 4, 1], [5, 2, 0, 0]])
    x = model.token.weight.detach()[ids].transpose(0, 1)
    (output, ends), back = recurrent(model.module, x)
    features = torch.cat(tuple(ends[0]), dim=1) if pooled == "both ends" else output[-1]
    logits, head_back = linear(features, model.head.weight.detach(), model.head.bias.detach())
    torch.testing.assert_close(logits, model(ids).detach())
    start = torch.zeros_like(logits)
    start[:, 1] = logits[:, 1]
    at_ends = torch.stack(head_back(start).chunk(len(ends[0]), dim=1))
    expected = back(torch.zeros_like(output), (at_ends, *zeros(ends[1:])))[0].sum(-1).T
    explain = fxlrp.compile(model, rules="epsilon", capture=capture)
    assert_close(explain(ids, target=1), expected)


def test_recurrent_layer_in_a_residual_branch() -> None:
    """x + LSTM(x), and another layer on top: relevance of both uses of x adds up."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = randomize(nn.LSTM(D, D, batch_first=True), 2)
            self.second = randomize(nn.GRU(D, H, batch_first=True), 3)

        def forward(self, x: Tensor) -> Tensor:
            branch, _ = self.first(x)
            return self.second(F.relu(x + branch))[0]

    model = Residual()
    (branch, ends), branch_back = recurrent(model.first, X)
    total, sum_back = add(X, branch)
    (output, last), back = recurrent(model.second, total.relu())
    seed = random(*output.shape, seed=3)
    at_x, at_branch = sum_back(back(seed, zeros(last))[0])
    expected = at_x + branch_back(at_branch, zeros(ends))[0]
    for capture in FRONT_ENDS:
        found = explained(model, (X.transpose(0, 1),), seed.transpose(0, 1), capture=capture)
        assert_close(found, expected.transpose(0, 1))


def test_states_carried_from_one_layer_to_another() -> None:
    """An encoder's last states are a decoder's first: relevance comes back through them."""

    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = randomize(nn.LSTM(D, H), 2), randomize(nn.LSTM(D, H), 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            _, states = self.encoder(x)
            return self.decoder(y, states)[0]

    model, y = Translator(), random(3, B, D, seed=5)
    (output, ends), encoder_back = recurrent(model.encoder, X)
    (decoded, last), decoder_back = recurrent(model.decoder, y, ends)
    seed = random(*decoded.shape, seed=3)
    at_y, at_states = decoder_back(seed, zeros(last))
    expected = (encoder_back(torch.zeros_like(output), at_states)[0], at_y)
    for capture in FRONT_ENDS:
        assert_close(explained(model, (X, y), seed, capture=capture), expected)


# Cells


class CellLoop(nn.Module):
    """A cell in a loop over the steps of (T, B, D)."""

    def __init__(self, module: nn.RNNBase, given: bool) -> None:
        super().__init__()
        cells = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}
        options = {"nonlinearity": module.nonlinearity} if isinstance(module, nn.RNN) else {}
        self.cell = cells[type(module)](D, H, dtype=torch.float64, **options)
        self.cell.load_state_dict({name.removesuffix("_l0"): t for name, t in module.state_dict().items()})
        self.is_lstm, self.given = isinstance(module, nn.LSTM), given

    def forward(self, x: Tensor) -> Tensor:
        state: Any = None
        if self.given:
            state = x.new_zeros(B, H)
            state = (state, state) if self.is_lstm else state
        outputs = []
        for t in range(T):
            state = self.cell(x[t], state)
            outputs.append(state[0] if self.is_lstm else state)
        return torch.stack(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True], ids=["no state", "zeros"])
@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_cells_in_a_loop_are_the_layer(kind: str, capture: str, given: bool) -> None:
    module = made(kind)
    (output, ends), back = recurrent(module, X)
    seed = random(*output.shape, seed=3)
    found = explained(CellLoop(module, given), (X,), seed, capture=capture)
    assert_close(found, back(seed, zeros(ends))[0])
    torch.testing.assert_close(found, explained(Outputs(module), (X,), seed), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_cells_in_a_loop_without_a_stabilizer(kind: str, bias: bool) -> None:
    """At epsilon 0 the layer and the cell, however it is taken apart, are one formula."""
    module = made(kind)
    if not bias:
        with torch.no_grad():
            module.get_parameter("bias_hh_l0").zero_()
    (output, ends), back = recurrent(module, X, epsilon=0.0)
    seed = random(*output.shape, seed=3)
    found = explained(CellLoop(module, False), (X,), seed, rules=fxlrp.presets.epsilon(epsilon=0), capture="symbolic")
    torch.testing.assert_close(found, back(seed, zeros(ends))[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("preset", [fxlrp.presets.attnlrp, fxlrp.presets.cplrp])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_presets_agree_on_cells(kind: str, preset: Callable[..., Preset]) -> None:
    """As on layers, gates are weights in each of them."""
    module = made(kind)
    (output, ends), back = recurrent(module, X, epsilon=0.0)
    seed = random(*output.shape, seed=3)
    found = explained(CellLoop(module, False), (X,), seed, rules=preset(epsilon=0), capture="symbolic")
    torch.testing.assert_close(found, back(seed, zeros(ends))[0], rtol=1e-8, atol=1e-9)


class Cell(nn.Module):
    """A cell as the model, its states inputs."""

    def __init__(self, cell: nn.Module, wanted: int) -> None:
        super().__init__()
        self.cell, self.wanted = cell, wanted

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        return self.cell(x, (h, c))[self.wanted]


@pytest.mark.parametrize("wanted", [0, 1])
def test_lstm_cell_with_states(wanted: int) -> None:
    module = made("LSTM")
    cell = CellLoop(module, False).cell
    h, c = states_of(module)
    (output, ends), back = recurrent(module, X[:1], (h, c))
    seeds = list(zeros(ends))
    seeds[wanted] = random(*ends[wanted].shape, seed=3)
    at_x, (at_h, at_c) = back(torch.zeros_like(output), tuple(seeds))
    assert_close(explained(Cell(cell, wanted), (X[0], h[0], c[0]), seeds[wanted][0]), (at_x[0], at_h[0], at_c[0]))


class WrittenLSTM(nn.Module):
    """An LSTM of linear layers, sigmoids and products, with one linear map of input and state."""

    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__()
        w = oracle.weights_of(module, "l0")
        self.weight = nn.Parameter(torch.cat([w["ih"], w["hh"]], dim=1))
        self.bias = nn.Parameter(w["bias"])

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
        outputs = []
        for t in range(T):
            i, f, g, o = F.linear(torch.cat([x[t], h], dim=-1), self.weight, self.bias).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs)


class WrittenGRU(WrittenLSTM):
    def __init__(self, module: nn.RNNBase) -> None:
        super().__init__(module)
        w = oracle.weights_of(module, "l0")
        self.ih, self.hh = nn.Linear(D, 3 * H, dtype=torch.float64), nn.Linear(H, 3 * H, dtype=torch.float64)
        self.ih.load_state_dict({"weight": w["ih"], "bias": w["b_ih"]})
        self.hh.load_state_dict({"weight": w["hh"], "bias": w["b_hh"]})

    def forward(self, x: Tensor, h: Tensor) -> Tensor:  # type: ignore[override]
        outputs = []
        for t in range(T):
            x_r, x_z, x_n = self.ih(x[t]).chunk(3, dim=-1)
            h_r, h_z, h_n = self.hh(h).chunk(3, dim=-1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
            h = (1 - z) * torch.tanh(x_n + r * h_n) + z * h
            outputs.append(h)
        return torch.stack(outputs)


def test_written_out_lstm_is_the_layer() -> None:
    """Sums, products and a linear map by their own rules give the same numbers."""
    module = made("LSTM")
    h, c = states_of(module)
    (output, ends), back = recurrent(module, X, (h, c))
    seed = random(*output.shape, seed=3)
    at_x, (at_h, at_c) = back(seed, zeros(ends))
    assert_close(explained(WrittenLSTM(module), (X, h[0], c[0]), seed), (at_x, at_h[0], at_c[0]))


def test_written_out_gru_is_the_layer_but_for_stabilizers() -> None:
    """Written out, p is a sum of two linear maps with denominators of their own; LRP-0 does not see that."""
    module = made("GRU")
    (h,) = states_of(module)
    (output, ends), back = recurrent(module, X, (h,), epsilon=0.0)
    seed = random(*output.shape, seed=3)
    at_x, (at_h,) = back(seed, zeros(ends))
    found = explained(WrittenGRU(module), (X, h[0]), seed, rules=fxlrp.presets.epsilon(epsilon=0))
    torch.testing.assert_close(found, (at_x, at_h[0]), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_relevance_is_conserved_without_biases(kind: str) -> None:
    """What the input and the initial states receive adds up to the seed, but for the stabilizers."""
    module = made(kind, bias=False)
    states = states_of(module)
    model = WithTwoStates(module, 0) if len(states) == 2 else WithStates(module, 0)
    seed = random(T, B, H, seed=3)
    found = explained(model, (X, *states), seed)
    total = sum(float(relevance.sum()) for relevance in found)
    assert total == pytest.approx(float(seed.sum()), rel=1e-3, abs=1e-3)


def test_gates_receive_nothing() -> None:
    """Weights of the gates decide how much is kept, and are no way for relevance: x only reaches c through g."""
    module = made("LSTM")
    with torch.no_grad():
        module.get_parameter("weight_ih_l0")[2 * H : 3 * H] = 0.0
    seed = random(T, B, H, seed=3)
    assert_close(explained(Outputs(module), (X,), seed), torch.zeros_like(X))


@pytest.mark.parametrize("cell", ["GRU", "RNN", "relu RNN"])
def test_cell_with_a_state(cell: str) -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = CellLoop(made(cell), False).cell

        def forward(self, x: Tensor, h: Tensor) -> Tensor:
            return self.cell(x, h)

    module = made(cell)
    (h,) = states_of(module)
    (output, _), back = recurrent(module, X[:1], (h,))
    seed = random(*output.shape, seed=3)
    at_x, (at_h,) = back(seed, zeros((h,)))
    assert_close(explained(Stateful(), (X[0], h[0]), seed[0]), (at_x[0], at_h[0]))


# How models call the layers


class Started(nn.Module):
    """States that the model makes itself are constants; zeros or not."""

    def __init__(self, module: nn.RNNBase, start: str) -> None:
        super().__init__()
        self.module, self.start = module, start
        self.first = nn.Parameter(random(2, 1, H, seed=9))

    def forward(self, x: Tensor) -> Tensor:
        if self.start == "zeros":
            h = torch.zeros(self.module.num_layers, x.size(1), H, dtype=x.dtype, device=x.device)
        elif self.start == "new_zeros":
            h = x.new_zeros(2, x.shape[1], H)
        elif self.start == "learned":
            h = self.first.expand(-1, x.shape[1], -1).contiguous()
        else:
            h = self.first.repeat(1, x.shape[1], 1)
        return self.module(x, (h, h) if isinstance(self.module, nn.LSTM) else h)[0]


@pytest.mark.slow
@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("start", ["zeros", "new_zeros", "learned", "repeated"])
@pytest.mark.parametrize("kind", ["LSTM", *slow_ones("GRU", "RNN")])
def test_states_that_the_model_makes(kind: str, start: str, capture: str) -> None:
    """A state that is not zero keeps its share, as a bias does."""
    module = made(kind, num_layers=2)
    model = Started(module, start)
    h = torch.zeros(2, B, H, dtype=torch.float64)
    h = h if "zeros" in start else h + model.first.detach()
    states = (h, h) if kind == "LSTM" else (h,)
    (output, ends), back = recurrent(module, X, states)
    torch.testing.assert_close(output, model(X).detach())
    seed = random(*output.shape, seed=3)
    assert_close(explained(model, (X,), seed, capture=capture), back(seed, zeros(ends))[0])


class Called(nn.Module):
    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.module = made("LSTM", batch_first=True)
        self.conv = randomize(nn.Conv1d(D, D, 1, bias=False), 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "output and state":
            output, (h, _) = self.module(x)
            return output[:, -1] + h[-1]
        if self.style == "flatten_parameters":
            self.module.flatten_parameters()
            return self.module(x)[0][:, -1, :]
        if self.style == "states indexed":
            result = self.module(x)
            return result[1][0][0]
        if self.style == "cell state":
            _, (_, c) = self.module(x)
            return c.squeeze(0)
        if self.style == "mean over time":
            return self.module(x)[0].mean(dim=1)
        return self.module(self.conv(x.transpose(1, 2)).transpose(1, 2))[0][:, -1]


STYLES = ["output and state", "flatten_parameters", "states indexed", "cell state", "mean over time", "convolution"]


@pytest.mark.slow
@pytest.mark.parametrize("capture", FRONT_ENDS)
@pytest.mark.parametrize("style", STYLES)
def test_lstm_as_models_call_it(style: str, capture: str) -> None:
    model: Any = Called(style)
    seed = random(B, H, seed=3)
    at_conv: Any = None
    x = X
    if style == "convolution":
        x, at_conv = linear(X, model.conv.weight.detach()[:, :, 0], None)
    (output, ends), back = recurrent(model.module, x)
    at_output, at_h, at_c = torch.zeros_like(output), torch.zeros_like(ends[0]), torch.zeros_like(ends[1])
    if style == "output and state":
        at_output[-1], at_h[0] = add(output[-1], ends[0][0])[1](seed)
    elif style == "states indexed":
        at_h[0] = seed
    elif style == "cell state":
        at_c[0] = seed
    elif style == "mean over time":
        at_output = output * (seed / stabilize(output.mean(0))) / T
    else:
        at_output[-1] = seed
    expected = back(at_output, (at_h, at_c))[0]
    expected = at_conv(expected) if at_conv else expected
    found = explained(model, (X.transpose(0, 1),), seed, capture=capture)
    assert_close(found, expected.transpose(0, 1))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("options", [{"optimize": False}, {"checkpoint": True}], ids=str)
def test_options_of_the_compiler_change_nothing(kind: str, options: dict[str, Any]) -> None:
    module = made(kind, num_layers=2, bidirectional=True)
    (output, ends), back = recurrent(module, X)
    seed = random(*output.shape, seed=3)
    assert_close(explained(Outputs(module), (X,), seed, **options), back(seed, zeros(ends))[0])


def test_layer_called_twice() -> None:
    """One layer for two sentences, as siamese networks have it."""

    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = made("GRU")

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.module(a)[1][-1] - self.module(b)[1][-1]

    model, other, seed = Siamese(), random(3, B, D, seed=5), random(B, H, seed=3)
    (a_out, a_ends), a_back = recurrent(model.module, X)
    (b_out, b_ends), b_back = recurrent(model.module, other)
    at_a, at_b = add(a_ends[0][0], -b_ends[0][0])[1](seed)
    expected = (
        a_back(torch.zeros_like(a_out), (at_a[None],))[0],
        b_back(torch.zeros_like(b_out), (at_b[None],))[0],
    )
    for capture in FRONT_ENDS:
        assert_close(explained(model, (X, other), seed, capture=capture), expected)

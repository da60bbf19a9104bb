"""Relevance of recurrent layers (Arras et al., 2019): gates are weights, states and maps follow LRP-epsilon.

The layers are recomputed step by step, because a step needs values that are inside the kernels. A program that is
compiled or exported is therefore specific to one sequence length.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fxlrp.program import Relevance
from fxlrp.relevance.coefficients import distance, slope
from fxlrp.relevance.held import Frozen, Held
from fxlrp.relevance.numerics import stabilize
from fxlrp.relevance.step import Contribution, Contributions, Implementation, RuleTable, Step
from fxlrp.rules.specs import SignalTakeAll


class Weights(NamedTuple):
    """The parameters of one direction of one layer."""

    input: Tensor
    state: Tensor
    bias: Tensor | None
    state_bias: Tensor | None
    projection: Tensor | None

    def of_input(self, x: Tensor) -> Tensor:
        """The contribution of the input to the gates."""
        return torch.nn.functional.linear(x, self.input, self.bias)

    def of_state(self, h: Tensor) -> Tensor:
        """The contribution of the state to the gates."""
        return torch.nn.functional.linear(h, self.state, self.state_bias)


State = tuple[Tensor, ...]
Back = Callable[[State], "tuple[Tensor, State]"]
"""From the relevance of the result of a step to that of its input and of the previous state."""


class Cell(NamedTuple):
    """A step of a recurrent layer.

    Args:
        state: Its result.
        back: Passes on relevance.
        coefficients: Passes on coefficients, ``C`` of relevance ``R = value * C``.
        frozen: The step for another input and another previous state, with its gates, and the ratio of each activation
            to its operand, as they are.
    """

    state: State
    back: Back
    coefficients: Back
    frozen: Callable[[Tensor, State], State]


def _ratio(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``f(x) / x``; where ``x`` is zero, the mean of the slopes on both sides."""
    sides = (function(torch.full_like(x, sign * distance(x))) for sign in (1, -1))
    return slope(x, function(x), *sides)


def _kept(factor: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """``C z / s(z)``, which is ``C`` for LRP-0, also where ``z`` is zero."""
    return factor * (z / stabilize(z, epsilon)) if epsilon else factor


def lstm_step(x: Tensor, state: State, weights: Weights, epsilon: float) -> Cell:
    """``c' = f * c + i * tanh(g)``, ``h' = o * tanh(c')``: ``o``, ``f`` and ``i`` receive no relevance."""
    h, c = state
    i, f, g, o = (weights.of_input(x) + weights.of_state(h)).chunk(4, -1)
    kept, new = f.sigmoid() * c, i.sigmoid() * g.tanh()
    c_out = kept + new
    unprojected = o.sigmoid() * c_out.tanh()
    w = weights.projection
    h_out = unprojected if w is None else torch.nn.functional.linear(unprojected, w)

    def back(relevance: State) -> tuple[Tensor, State]:
        r, r_c = relevance
        if w is not None:
            r = unprojected * ((r / stabilize(h_out, epsilon)) @ w)
        share = (r_c + r) / stabilize(c_out, epsilon)
        u = new * share / stabilize(g, epsilon)
        return x * (u @ weights.input.chunk(4)[2]), (h * (u @ weights.state.chunk(4)[2]), kept * share)

    def coefficients(received: State) -> tuple[Tensor, State]:
        of_h, of_c = received
        if w is not None:
            of_h = _kept(of_h, h_out, epsilon) @ w
        of_sum = _kept(of_c + of_h * o.sigmoid() * _ratio(torch.tanh, c_out), c_out, epsilon)
        u = _kept(of_sum * i.sigmoid() * _ratio(torch.tanh, g), g, epsilon)
        return u @ weights.input.chunk(4)[2], (u @ weights.state.chunk(4)[2], of_sum * f.sigmoid())

    def frozen(v: Tensor, moved: State) -> State:
        of_g = (weights.of_input(v) + weights.of_state(moved[0])).chunk(4, -1)[2]
        c_moved = f.sigmoid() * moved[1] + i.sigmoid() * _ratio(torch.tanh, g) * of_g
        h_moved = o.sigmoid() * _ratio(torch.tanh, c_out) * c_moved
        return (h_moved if w is None else torch.nn.functional.linear(h_moved, w), c_moved)

    return Cell((h_out, c_out), back, coefficients, frozen)


def gru_step(x: Tensor, state: State, weights: Weights, epsilon: float) -> Cell:
    """``n = tanh(W x + r * U h)``, ``h' = (1 - z) * n + z * h``: ``r`` and ``z`` receive no relevance."""
    (h,) = state
    r_in, z_in, n_in = weights.of_input(x).chunk(3, -1)
    r_state, z_state, n_state = weights.of_state(h).chunk(3, -1)
    reset, z = (r_in + r_state).sigmoid(), (z_in + z_state).sigmoid()
    before = n_in + reset * n_state
    new, kept = (1 - z) * before.tanh(), z * h
    out = new + kept

    def back(relevance: State) -> tuple[Tensor, State]:
        share = relevance[0] / stabilize(out, epsilon)
        u = new * share / stabilize(before, epsilon)
        r_h = kept * share + h * ((u * reset) @ weights.state.chunk(3)[2])
        return x * (u @ weights.input.chunk(3)[2]), (r_h,)

    def coefficients(received: State) -> tuple[Tensor, State]:
        of_sum = _kept(received[0], out, epsilon)
        u = _kept(of_sum * (1 - z) * _ratio(torch.tanh, before), before, epsilon)
        return u @ weights.input.chunk(3)[2], (of_sum * z + (u * reset) @ weights.state.chunk(3)[2],)

    def frozen(v: Tensor, moved: State) -> State:
        of_n = weights.of_input(v).chunk(3, -1)[2] + reset * weights.of_state(moved[0]).chunk(3, -1)[2]
        return ((1 - z) * _ratio(torch.tanh, before) * of_n + z * moved[0],)

    return Cell((out,), back, coefficients, frozen)


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, State, Weights, float], Cell]:
    def step(x: Tensor, state: State, weights: Weights, epsilon: float) -> Cell:
        (h,) = state
        before = weights.of_input(x) + weights.of_state(h)

        def back(relevance: State) -> tuple[Tensor, State]:
            u = relevance[0] / stabilize(before, epsilon)
            return x * (u @ weights.input), (h * (u @ weights.state),)

        def coefficients(received: State) -> tuple[Tensor, State]:
            u = _kept(received[0] * _ratio(activation, before), before, epsilon)
            return u @ weights.input, (u @ weights.state,)

        def frozen(v: Tensor, moved: State) -> State:
            return (_ratio(activation, before) * (weights.of_input(v) + weights.of_state(moved[0])),)

        return Cell((activation(before),), back, coefficients, frozen)

    return step


_STEPS: Mapping[str, Callable[[Tensor, State, Weights, float], Cell]] = {
    "lstm": lstm_step,
    "gru": gru_step,
    "rnn_tanh": _rnn_step(torch.tanh),
    "rnn_relu": _rnn_step(torch.relu),
}


class Unrolled(NamedTuple):
    """A recurrent layer step by step: for each layer and direction the cells, in the order in which they run."""

    cells: list[list[Cell]]
    sequence: Tensor
    directions: int


def _unrolled(
    kind: str,
    sequence: Tensor,
    initial: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    epsilon: float,
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
) -> Unrolled:
    """Run a recurrent layer on a sequence, ``(length, batch, features)``."""
    directions = 2 if bidirectional else 1
    per_direction = len(parameters) // (num_layers * directions)
    all_weights = [
        _weights(parameters[first : first + per_direction], has_biases)
        for first in range(0, len(parameters), per_direction)
    ]
    cells: list[list[Cell]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            state: State = tuple(each[index] for each in initial)
            cells.append([])
            for value in _in_order(sequence.unbind(0), direction):
                cells[-1].append(_STEPS[kind](value, state, all_weights[index], epsilon))
                state = cells[-1][-1].state
            outputs.append(torch.stack(_in_order([cell.state[0] for cell in cells[-1]], direction)))
        sequence = torch.cat(outputs, -1)
    return Unrolled(cells, sequence, directions)


def recurrent_relevance(
    kind: str,
    x: Tensor,
    initial: Sequence[Tensor],
    parameters: Sequence[Tensor],
    relevances: Mapping[int, Tensor],
    *,
    epsilon: float,
    has_biases: bool = True,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    coefficients: bool = False,
) -> tuple[Tensor, ...]:
    """Return the relevance of the input of a recurrent layer, and of its initial states.

    Args:
        kind: "lstm", "gru", "rnn_tanh" or "rnn_relu".
        x: The input, ``(length, batch, features)``, or batch first.
        initial: The initial states, ``(layers * directions, batch, features)`` each.
        parameters: The weights, as torch's kernels take them.
        relevances: The relevance of the outputs, and of the last states, by position in the result.
        epsilon: The stabilizer of LRP-epsilon.
        has_biases: Whether biases are among the parameters.
        num_layers: The number of layers.
        bidirectional: Whether each layer runs in both directions.
        batch_first: Whether the batch is the first dimension of the input and the output.
        coefficients: Whether ``relevances`` and the results are coefficients, ``C`` of ``R = value * C``.
    """
    sequence = x.transpose(0, 1) if batch_first else x
    cells, sequence, directions = _unrolled(
        kind,
        sequence,
        initial,
        parameters,
        epsilon=epsilon,
        has_biases=has_biases,
        num_layers=num_layers,
        bidirectional=bidirectional,
    )
    r = relevances.get(0)
    r = torch.zeros_like(sequence) if r is None else r.transpose(0, 1) if batch_first else r
    r_initial: list[list[Tensor]] = [[torch.empty(0)] * len(cells) for _ in initial]
    for layer in reversed(range(num_layers)):
        parts = []
        for direction, r_output in enumerate(r.chunk(directions, -1)):
            index = layer * directions + direction
            state = tuple(
                relevances[1 + each][index] if 1 + each in relevances else torch.zeros_like(initial[each][index])
                for each in range(len(initial))
            )
            r_inputs = []
            for cell, received in zip(
                reversed(cells[index]), reversed(_in_order(r_output.unbind(0), direction)), strict=True
            ):
                back = cell.coefficients if coefficients else cell.back
                r_input, state = back((state[0] + received, *state[1:]))
                r_inputs.append(r_input)
            parts.append(torch.stack(_in_order(r_inputs[::-1], direction)))
            for each, value in enumerate(state):
                r_initial[each][index] = value
        r = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return (r.transpose(0, 1) if batch_first else r, *(torch.stack(each) for each in r_initial))


def _frozen_forward(held: Held, moved: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
    """The layer for another input and other initial states, with what :class:`Cell` freezes."""
    given = held.arguments
    v, *states = (moved.get(position, operand) for position, operand in enumerate(held.operands))
    batch_first = given["batch_first"]
    cells, _, directions = _unrolled(
        held.operation.name,
        given["input"].transpose(0, 1) if batch_first else given["input"],
        held.operands[1:],
        given["params"],
        epsilon=0.0,
        has_biases=given["has_biases"],
        num_layers=given["num_layers"],
        bidirectional=given["bidirectional"],
    )
    sequence, last = v.transpose(0, 1) if batch_first else v, []
    for layer in range(given["num_layers"]):
        outputs = []
        for direction in range(directions):
            index, hidden = layer * directions + direction, []
            state: State = tuple(each[index] for each in states)
            for cell, value in zip(cells[index], _in_order(sequence.unbind(0), direction), strict=True):
                state = cell.frozen(value, state)
                hidden.append(state[0])
            last.append(state)
            outputs.append(torch.stack(_in_order(hidden, direction)))
        sequence = torch.cat(outputs, -1)
    final = (torch.stack(each) for each in zip(*last, strict=True))
    return (sequence.transpose(0, 1) if batch_first else sequence, *final)


def _in_order(values: Sequence[Tensor], direction: int) -> list[Tensor]:
    return list(values[::-1]) if direction else list(values)


def _weights(parameters: Sequence[Tensor], has_biases: bool) -> Weights:
    names = ["input", "state", *(["bias", "state_bias"] if has_biases else []), "projection"]
    found = dict(zip(names, parameters, strict=False))
    return Weights(**{name: found.get(name) for name in Weights._fields})  # type: ignore[arg-type]


def _emit_signal(step: Step) -> Contributions:
    assert isinstance(step.rule, SignalTakeAll)
    arguments = step.arguments
    state = arguments["hx"]
    initial = list(state) if isinstance(state, list | tuple) else [state]
    options = {
        name: arguments[name]
        for name in ("has_biases", "num_layers", "bidirectional", "batch_first")
        if arguments[name] is not _DEFAULTS[name]
    }
    received = _coefficients(step) if step.facts.as_coefficients else None
    as_coefficients = {"coefficients": True} if received is not None else {}
    parts = step.call(
        recurrent_relevance,
        step.operation.name,
        arguments["input"],
        initial,
        list(arguments["params"]),
        dict(step.parts) if received is None else received,
        epsilon=step.rule.stabilizer,
        **options,
        **as_coefficients,
    )

    def contribution(position: int, operand: fx.Node) -> Contribution:
        made = step.call(operator.getitem, parts, position)
        return made if received is None else Relevance(made, operand)

    return step.to_receivers(contribution)


def _coefficients(step: Step) -> dict[int, fx.Node] | None:
    """The coefficients of the results; None if the relevance of one is not carried as a multiple of it."""
    assert not isinstance(step.received, Relevance)
    if any(each.base is None or each.base.args != (step.node, index) for index, each in step.received.items()):
        return None
    return {index: each.factor for index, each in step.received.items()}


_DEFAULTS: Mapping[str, Any] = {"has_biases": True, "num_layers": 1, "bidirectional": False, "batch_first": False}

RULES: RuleTable = {
    SignalTakeAll: Implementation(
        _emit_signal, frozen=Frozen("the gates, and the ratio of each activation to its operand", _frozen_forward)
    )
}

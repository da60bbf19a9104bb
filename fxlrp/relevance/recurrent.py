"""Relevance of recurrent layers (Arras et al., 2019): gates are weights, states and maps follow LRP-epsilon.

The layers are recomputed step by step, because a step needs values that are inside the kernels. A program that is
compiled or exported is therefore specific to one sequence length.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fxlrp.relevance.numerics import stabilize
from fxlrp.relevance.step import Contributions, Implementation, RuleTable, Step
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


def lstm_step(x: Tensor, state: State, weights: Weights, epsilon: float) -> tuple[State, Back]:
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

    return (h_out, c_out), back


def gru_step(x: Tensor, state: State, weights: Weights, epsilon: float) -> tuple[State, Back]:
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

    return (out,), back


def _rnn_step(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor, State, Weights, float], tuple[State, Back]]:
    def step(x: Tensor, state: State, weights: Weights, epsilon: float) -> tuple[State, Back]:
        (h,) = state
        before = weights.of_input(x) + weights.of_state(h)

        def back(relevance: State) -> tuple[Tensor, State]:
            u = relevance[0] / stabilize(before, epsilon)
            return x * (u @ weights.input), (h * (u @ weights.state),)

        return (activation(before),), back

    return step


_STEPS: Mapping[str, Callable[[Tensor, State, Weights, float], tuple[State, Back]]] = {
    "lstm": lstm_step,
    "gru": gru_step,
    "rnn_tanh": _rnn_step(torch.tanh),
    "rnn_relu": _rnn_step(torch.relu),
}


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
    """
    directions = 2 if bidirectional else 1
    per_direction = len(parameters) // (num_layers * directions)
    all_weights = [
        _weights(parameters[first : first + per_direction], has_biases)
        for first in range(0, len(parameters), per_direction)
    ]
    sequence = x.transpose(0, 1) if batch_first else x
    backs: list[list[Back]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            index = layer * directions + direction
            state: State = tuple(each[index] for each in initial)
            steps, hidden = [], []
            for value in _in_order(sequence.unbind(0), direction):
                state, back = _STEPS[kind](value, state, all_weights[index], epsilon)
                steps.append(back)
                hidden.append(state[0])
            backs.append(steps)
            outputs.append(torch.stack(_in_order(hidden, direction)))
        sequence = torch.cat(outputs, -1)
    r = relevances.get(0)
    r = torch.zeros_like(sequence) if r is None else r.transpose(0, 1) if batch_first else r
    r_initial: list[list[Tensor]] = [[torch.empty(0)] * len(all_weights) for _ in initial]
    for layer in reversed(range(num_layers)):
        parts = []
        for direction, r_output in enumerate(r.chunk(directions, -1)):
            index = layer * directions + direction
            state = tuple(
                relevances[1 + each][index] if 1 + each in relevances else torch.zeros_like(initial[each][index])
                for each in range(len(initial))
            )
            r_inputs = []
            for back, received in zip(
                reversed(backs[index]), reversed(_in_order(r_output.unbind(0), direction)), strict=True
            ):
                r_input, state = back((state[0] + received, *state[1:]))
                r_inputs.append(r_input)
            parts.append(torch.stack(_in_order(r_inputs[::-1], direction)))
            for each, value in enumerate(state):
                r_initial[each][index] = value
        r = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return (r.transpose(0, 1) if batch_first else r, *(torch.stack(each) for each in r_initial))


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
    parts = step.call(
        recurrent_relevance,
        step.operation.name,
        arguments["input"],
        initial,
        list(arguments["params"]),
        dict(step.parts),
        epsilon=step.rule.stabilizer,
        **options,
    )
    return [
        step.call(operator.getitem, parts, position) if position in step.receivers else None
        for position in range(len(step.operands))
    ]


_DEFAULTS: Mapping[str, Any] = {"has_biases": True, "num_layers": 1, "bidirectional": False, "batch_first": False}

RULES: RuleTable = {SignalTakeAll: Implementation(_emit_signal)}

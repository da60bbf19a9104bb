"""Measure one model of the survey: whether it compiles, and whether relevance is conserved."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxlrp
from fxlrp.balance import Balance
from fxlrp.explainer import Explainer
from fxlrp.operation import Family
from fxlrp.program import annotation
from fxlrp.survey.models import make
from fxlrp.vocabulary import CANONICAL


@dataclass(frozen=True)
class Result:
    """The survey's result for a model.

    Args:
        name: The name of the model.
        front_end: The front end that captured it; empty if none could.
        seconds: The time of compilation in seconds.
        steps: The number of nodes that relevance passes through.
        error: The relevance that all nodes except those below created or absorbed, as a fraction of the explained
            output; None if nothing was computed.
        softmax: The relevance that the Taylor rule of softmax created or absorbed, as the same fraction.
        constants: The relevance that constants beside the inputs (position embeddings, class tokens, masks, zeros that
            pad) absorbed, as the same fraction.
        problem: Why the model does not work; empty if it works.
    """

    name: str
    front_end: str = ""
    seconds: float = 0.0
    steps: int = 0
    error: float | None = None
    softmax: float = 0.0
    constants: float = 0.0
    problem: str = ""

    @property
    def works(self) -> bool:
        """Whether the model is explained, and relevance is conserved within one millionth."""
        return not self.problem and self.error is not None and self.error <= 1e-6

    def as_dict(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def measure(name: str) -> Result:
    """Compile the named model with LRP-epsilon, explain an input, and compute the balance of every node.

    The model is in double precision, and its biases and BatchNorm means are zero, so that conservation is exact.
    """
    torch.set_num_threads(1)
    try:
        case = make(name)
        inputs = to_double(case.inputs)
        prepare(case.model, inputs)
        start = time.perf_counter()
        explain = fxlrp.compile(
            case.model, rules=fxlrp.presets.epsilon(epsilon=1e-12), example_inputs=inputs, **case.options
        )
        seconds = time.perf_counter() - start
        args: tuple[Any, ...] = (inputs,) if isinstance(inputs, Tensor) else ()
        kwargs: dict[str, Any] = {} if args else _tensors(inputs)
        relevance = explain(*args, **kwargs)
        parts = explain
        if any(_is_attention(node) for node in explain.nodes):
            # The balance of each part of attention says more than that of all together.
            written_out = fxlrp.Optimizations(fuse_attention=False)
            rules = fxlrp.presets.epsilon(epsilon=1e-12)
            parts = fxlrp.compile(case.model, rules, example_inputs=inputs, optimize=written_out, **case.options)
        balance = parts.balance(*args, **kwargs)
    except Exception as error:
        return Result(name, problem=f"{type(error).__name__}: {error}")
    return _result(name, parts, seconds, relevance, balance)


def _is_attention(node: fx.Node) -> bool:
    operation = CANONICAL.operation(node)
    return operation is not None and operation.family is Family.ATTENTION


def _result(name: str, explain: Explainer, seconds: float, relevance: Any, balance: Balance) -> Result:
    parts = tuple(relevance.values()) if isinstance(relevance, dict) else (relevance,)
    total = sum(float(part.double().sum()) for part in parts)
    by_design = _not_conserving(explain)
    scale = abs(balance.explained)
    sums = {"softmax": 0.0, "constants": 0.0, "": 0.0}
    for each in balance.nodes:
        kind = by_design.get(each.node, "")
        sums[kind] += each.created if kind else abs(each.created + each.zeros)
        if not kind:
            sums["constants"] -= each.zeros
    problem = ""
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        problem = "the relevance is not finite"
    elif not abs(total - balance.at_inputs) <= 1e-6 * max(scale, abs(total)):
        problem = "the optimized program and the balance differ"
    return Result(
        name,
        explain.front_end,
        seconds,
        len(balance.nodes),
        sums[""] / scale if scale else None,
        sums["softmax"] / scale if scale else 0.0,
        sums["constants"] / scale if scale else 0.0,
        problem,
    )


def _not_conserving(explain: Explainer) -> dict[str, str]:
    """The nodes at which relevance may be created or absorbed by design, and why."""
    found = {}
    for node in explain.nodes:
        annotated, operation = annotation(node), CANONICAL.operation(node)
        if annotated is None or operation is None:
            continue
        if operation.family is Family.SOFTMAX:
            found[node.name] = "softmax"
        elif operation.family in _SHARING and len(annotated.carries) < len(operation.operands_of(node)):
            found[node.name] = "constants"
    return found


# Operations whose constant operands absorb their share of the relevance.
_SHARING = (Family.SUM, Family.SHAPE, Family.MASK)


def prepare(model: nn.Module, inputs: Any) -> None:
    """Convert to double precision, zero the biases, replace all-zero weights, and calibrate BatchNorm on ``inputs``.

    Without calibration the signal of random networks vanishes, and errors relative to the logits mean nothing.
    """
    model.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            last = name.rpartition(".")[2]
            if last.endswith("bias") or last.startswith("bias") or last == "running_mean":
                value.zero_()
            elif value.is_floating_point() and value.dim() >= 2 and not value.any():
                # Some heads are initialized to zero, and their relevance would be zero.
                value.normal_(0, 0.02, generator=generator)
        norms = [module for module in model.modules() if isinstance(getattr(module, "running_var", None), Tensor)]
        if not norms:
            return
        hooks = [norm.register_forward_pre_hook(_calibrate) for norm in norms]
        try:
            model(inputs) if isinstance(inputs, Tensor) else model(**inputs)
        finally:
            for hook in hooks:
                hook.remove()


def _calibrate(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    variance, (x,) = norm.running_var, inputs
    if isinstance(variance, Tensor):
        variance.copy_(x.square().mean([dim for dim in range(x.dim()) if dim != 1]).clamp_min(1e-6))


def to_double(inputs: Any) -> Any:
    """Convert example inputs to double precision."""
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    return {name: to_double(value) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _tensors(inputs: Any) -> dict[str, Tensor]:
    return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
